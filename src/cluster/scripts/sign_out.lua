-- A user has one connection less. Answers 1 if it was the last.
-- KEYS: connections of the user
-- ARGV: connection@instance
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
return redis.call('EXISTS', KEYS[1]) == 0 and 1 or 0
