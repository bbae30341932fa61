-- ARGV: instance, publish command, channel, then for each member: id,
--       value, frame that says it joined
-- Answers -1 if the instance was taken for dead, or how many were new.
if redis.call('SISMEMBER', KEYS[5], ARGV[1]) == 1 then return -1 end
local new = 0
for i = 4, #ARGV, 3 do
  local id, value, frame = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  redis.call('SADD', KEYS[4], id)
  if redis.call('HSET', KEYS[1], id, value) == 1 then
    new = new + 1
    redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[6]), id)
    local user = user_of(value)
    local n = redis.call('HINCRBY', KEYS[3], user, 1)
    if is_told(value, user, n - 1) then
      redis.call(ARGV[2], ARGV[3], frame)
    end
  end
end
return new
