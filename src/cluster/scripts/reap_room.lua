-- ARGV: dead instance, publish command, channel, how many
-- Answers how many of its members are left, then the values of those taken
-- out, each with 1 before it if it was its user's last.
redis.call('SADD', KEYS[5], ARGV[1])
redis.call('EXPIRE', KEYS[5], 3600)
local taken = {}
for _, id in ipairs(redis.call('SRANDMEMBER', KEYS[4], ARGV[4])) do
  local value, is_last = take_out(id, ARGV[2], ARGV[3])
  if value then
    taken[#taken + 1] = is_last and 1 or 0
    taken[#taken + 1] = value
  end
end
if redis.call('HLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[6]) end
return {redis.call('SCARD', KEYS[4]), taken}
