-- Keeps a message and publishes it, in one step.
-- KEYS[3]: where its idempotency key is noted, if it has one
-- ARGV: an epoch if a new one begins, publish command, channel, frame, size,
--       age in ms, how long to remember the count in ms, how long to remember
--       the key in ms
-- Answers 1, or 0 if it was known; its offset; the epoch.
if KEYS[3] then
  local known = redis.call('GET', KEYS[3])
  if known then
    local offset, epoch = string.match(known, '^(%d+) (.*)$')
    return {0, tonumber(offset), epoch}
  end
end
local epoch, top = touch(ARGV[1])
local now, age = milliseconds(), tonumber(ARGV[6])
top = top + 1
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[5], string.format('%.0f-0', top), 'd', ARGV[4], 't', now)
redis.call('HSET', KEYS[1], 'top', string.format('%.0f', top))
for _ = 1, 8 do
  local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  if not first or now - tonumber(first[2][4]) <= age then break end
  redis.call('XDEL', KEYS[2], first[1])
end
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
if KEYS[3] then
  redis.call('SET', KEYS[3], string.format('%.0f', top) .. ' ' .. epoch, 'PX', ARGV[8])
end
redis.call(ARGV[2], ARGV[3], 'P' .. string.format('%.0f', top) .. ' ' .. epoch .. ' ' .. ARGV[4])
return {1, top, epoch}
