-- Notes rooms and users as held by an instance, before anything of it is
-- written there, so that whoever cleans up after it finds all.
-- KEYS: dead, rooms, users
-- ARGV: instance, number of rooms, the rooms, the users
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
local n = tonumber(ARGV[2])
for i = 3, #ARGV do
  redis.call('SADD', i <= 2 + n and KEYS[2] or KEYS[3], ARGV[i])
end
return 1
