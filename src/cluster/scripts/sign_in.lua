-- A user has one more connection.
-- KEYS: connections of the user, cleaned instances
-- ARGV: connection@instance, instance, how many may be, 1 to close the oldest
-- Answers {-1}: the instance was taken for dead; {0}: too many; or {1, 1 if it
-- is the first, the connections that have to make room}.
if redis.call('SISMEMBER', KEYS[2], ARGV[2]) == 1 then return {-1} end
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return {1, 0, {}} end
local n, max = redis.call('ZCARD', KEYS[1]), tonumber(ARGV[3])
local over = {}
if n >= max then
  if ARGV[4] ~= '1' then return {0} end
  over = redis.call('ZRANGE', KEYS[1], 0, n - max)
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, n - max)
end
local newest = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
redis.call('ZADD', KEYS[1], (tonumber(newest[2]) or 0) + 1, ARGV[1])
return {1, n == 0 and 1 or 0, over}
