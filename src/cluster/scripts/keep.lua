-- Writes to a plugin's store, within its quota of bytes.
-- KEYS: values, sizes and ends of them
-- ARGV: 's'et, 'd'elete, 'i'ncrement or 'g'et; key; value or step; ttl in ms or 0; quota
-- Answers {1, value}; {0}: there is none; {-1}: over the quota; {-2}: too large; {-3}: not a number.
local kind, key, quota = ARGV[1], ARGV[2], tonumber(ARGV[5])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function drop(name)
  local value = redis.call('HGET', KEYS[1], name)
  if not value then return nil end
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
  redis.call('HINCRBY', KEYS[1], '', -(#name + #value - 1))
  return value
end
-- Some of those whose time is over go each time.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 16)) do drop(name) end
local old = redis.call('HGET', KEYS[1], key)
if old and (tonumber(redis.call('ZSCORE', KEYS[2], key)) or math.huge) <= now then
  drop(key)
  old = nil
end
if kind == 'g' then
  if old then return {1, old} end
  return {0}
end
if kind == 'd' then
  if old then drop(key) return {1, ''} end
  return {0}
end
local value, ends = ARGV[3], tonumber(ARGV[4])
if kind == 'i' then
  local before = '0'
  if old then
    before = string.sub(old, 2)
    if string.sub(old, 1, 1) ~= 't' or not string.match(before, '^-?%d+$') then return {-3} end
  end
  value = 't' .. string.format('%.0f', tonumber(before) + tonumber(value))
end
local size = #key + #value - 1
if #key > 512 or size > quota then return {-2} end
local used = tonumber(redis.call('HGET', KEYS[1], '') or '0')
if old then used = used - (#key + #old - 1) end
if used + size > quota then
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do drop(name) end
  used = tonumber(redis.call('HGET', KEYS[1], '') or '0')
  if old then used = used - (#key + #old - 1) end
  if used + size > quota then return {-1} end
end
redis.call('HSET', KEYS[1], key, value, '', used + size)
if kind == 's' or not old then
  if ends > 0 then redis.call('ZADD', KEYS[2], now + ends, key) else redis.call('ZREM', KEYS[2], key) end
end
return {1, value}
