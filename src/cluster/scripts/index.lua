-- Notes rooms and users as held by an instance, before anything of it is
-- written there, so that whoever cleans up after it finds all.
-- KEYS: dead, rooms, users, beats, departed
-- ARGV: instance, number of rooms, the rooms, the users
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
-- One that has not beaten yet, or that Redis has forgotten, is seen from here
-- on: it could die before it beats.
if redis.call('HEXISTS', KEYS[5], ARGV[1]) == 0 then redis.call('HSETNX', KEYS[4], ARGV[1], 0) end
local n = tonumber(ARGV[2])
for i = 3, #ARGV do
  redis.call('SADD', i <= 2 + n and KEYS[2] or KEYS[3], ARGV[i])
end
return 1
