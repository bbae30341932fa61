-- Takes over the cleaning up after an instance that is dead or has departed.
-- KEYS: beats, infos, dead, departed, claims, lease of the dead one
-- ARGV: dead one, its beat or its claim as the claimer saw it, token
-- Answers 1 if the claim is the caller's now.
local dead, seen, token = ARGV[1], ARGV[2], ARGV[3]
local claim = redis.call('HGET', KEYS[5], dead)
if claim then
  -- Somebody is at it. Only one that makes no progress is replaced.
  if claim ~= seen then return 0 end
else
  local beat = redis.call('HGET', KEYS[1], dead)
  local departed = redis.call('HGET', KEYS[4], dead)
  if beat and beat ~= seen then return 0 end
  if not beat and not departed then return 0 end
end
local now = redis.call('TIME')[1]
redis.call('ZADD', KEYS[3], now, dead)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - 86400)
redis.call('HDEL', KEYS[1], dead)
redis.call('HDEL', KEYS[2], dead)
redis.call('HDEL', KEYS[4], dead)
redis.call('DEL', KEYS[6])
redis.call('HSET', KEYS[5], dead, token .. ':0')
return 1
