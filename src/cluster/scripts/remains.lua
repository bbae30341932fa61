-- What is left to clean up after a dead instance, for whoever has the claim.
-- KEYS: claims, rooms of the dead one, users of the dead one
-- ARGV: dead one, token, how many, number of rooms done, the rooms, the users done
local dead, token, n, done = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local claim = redis.call('HGET', KEYS[1], dead)
if not claim or string.sub(claim, 1, #token + 1) ~= token .. ':' then
  return {-1}
end
for i = 5, #ARGV do
  redis.call('SREM', i <= 4 + done and KEYS[2] or KEYS[3], ARGV[i])
end
local rooms = redis.call('SRANDMEMBER', KEYS[2], n)
local users = redis.call('SRANDMEMBER', KEYS[3], n)
if #rooms == 0 and #users == 0 then
  redis.call('HDEL', KEYS[1], dead)
  return {0}
end
redis.call('HSET', KEYS[1], dead, token .. ':' .. (tonumber(string.sub(claim, #token + 2)) + 1))
return {1, rooms, users}
