-- Takes a dead instance's connections from a user.
-- KEYS: connections of the user, cleaned instances
-- ARGV: dead instance
-- Answers how many there were, and 1 if the last is gone.
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('EXPIRE', KEYS[2], 3600)
local suffix, gone = '@' .. ARGV[1], 0
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(member, -#suffix) == suffix then
    redis.call('ZREM', KEYS[1], member)
    gone = gone + 1
  end
end
return {gone, gone > 0 and redis.call('EXISTS', KEYS[1]) == 0 and 1 or 0}
