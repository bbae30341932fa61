-- ARGV: publish command or '', channel, ids
-- Answers how many were there.
local gone = 0
for i = 3, #ARGV do
  local value, is_last = take_out(ARGV[i])
  if value then
    gone = gone + 1
    if ARGV[1] ~= '' and is_last then
      redis.call(ARGV[1], ARGV[2], string.sub(value, string.find(value, '\0', 1, true) + 1))
    end
  end
end
if redis.call('HLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[6]) end
return gone
