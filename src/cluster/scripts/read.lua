-- ARGV: an epoch if a new one begins, 'f' forward or 'r' reverse or 't' only
--       the position, offset to start behind or '', how many, age in ms
-- Answers the epoch, the newest offset, the past epochs, and offset and frame
-- of each message.
local epoch, top, past = touch(ARGV[1])
-- While somebody is there who counts on the epoch it must not be forgotten,
-- though nothing be published. Rarely, since it is a write.
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left < 82800000 then redis.call('PEXPIRE', KEYS[1], 86400000) end
if ARGV[2] == 't' then return {epoch, top, past, {}} end
local found
if ARGV[2] == 'f' then
  local from = ARGV[3] == '' and '-' or string.format('%.0f-0', tonumber(ARGV[3]) + 1)
  found = redis.call('XRANGE', KEYS[2], from, '+', 'COUNT', ARGV[4])
else
  local from = '+'
  if ARGV[3] ~= '' then
    if tonumber(ARGV[3]) <= 1 then return {epoch, top, past, {}} end
    from = string.format('%.0f-0', tonumber(ARGV[3]) - 1)
  end
  found = redis.call('XREVRANGE', KEYS[2], from, '-', 'COUNT', ARGV[4])
end
local oldest = milliseconds() - tonumber(ARGV[5])
local messages = {}
for _, entry in ipairs(found) do
  if tonumber(entry[2][4]) >= oldest then
    messages[#messages + 1] = tonumber(string.match(entry[1], '^%d+'))
    messages[#messages + 1] = entry[2][2]
  end
end
return {epoch, top, past, messages}
