-- ARGV: publish command, channel, ids
-- Answers how many were there.
local gone = 0
for i = 3, #ARGV do
  if take_out(ARGV[i], ARGV[1], ARGV[2]) then gone = gone + 1 end
end
if redis.call('HLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[6]) end
return gone
