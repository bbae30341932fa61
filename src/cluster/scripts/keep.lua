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
-- Sums as those in memory: of 64 bits, at most the largest. Lua's numbers are exact
-- below 2^53, Redis's own beyond; nil: not of 64 bits.
local function sum(before, step)
  local a, b = tonumber(before), tonumber(step)
  local limit = 9007199254740992
  if math.abs(a) < limit and math.abs(b) < limit and math.abs(a + b) < limit then
    return string.format('%.0f', a + b)
  end
  -- Too long for a name of a plugin's.
  local scratch = string.rep('+', 513)
  redis.call('HSET', KEYS[1], scratch, a == 0 and '0' or before)
  local done = redis.pcall('HINCRBY', KEYS[1], scratch, step)
  local text = redis.call('HGET', KEYS[1], scratch)
  redis.call('HDEL', KEYS[1], scratch)
  if type(done) ~= 'table' then return text end
  if not string.find(done.err, 'overflow') then return nil end
  return b > 0 and '9223372036854775807' or '-9223372036854775808'
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
  local after = sum(before, value)
  if not after then return {-3} end
  value = 't' .. after
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
