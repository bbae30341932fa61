-- Notes that a token, or all of a user, was taken back.
-- KEYS: what was, by number; the same by when it need not be known any more;
--       the last number and the epoch of the count; of each, up to when what it
--       concerns was issued, and until when it need be known
-- ARGV: what; that, each in s since 1970; how many may be known; an epoch for a
--       count that begins
-- Of the same thing the later moments count, and what adds nothing to what is
-- known keeps its number: nobody has to learn it again.
-- Answers its number, or 0 if there are as many already.
local now = redis.call('TIME')[1]
local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)
if #over > 0 then
  redis.call('ZREM', KEYS[1], unpack(over))
  redis.call('ZREM', KEYS[2], unpack(over))
  redis.call('HDEL', KEYS[4], unpack(over))
end
local before, ends = ARGV[2], ARGV[3]
local known = redis.call('HGET', KEYS[4], ARGV[1])
if known then
  local was_before, was_ends = string.match(known, '^(%d+) (%d+)$')
  if tonumber(was_before) >= tonumber(before) then before = was_before end
  if tonumber(was_ends) >= tonumber(ends) then ends = was_ends end
  if known == before .. ' ' .. ends then return tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1])) end
elseif redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then
  return 0
end
redis.call('HSETNX', KEYS[3], 'epoch', ARGV[5])
local number = redis.call('HINCRBY', KEYS[3], 'last', 1)
redis.call('HSET', KEYS[4], ARGV[1], before .. ' ' .. ends)
redis.call('ZADD', KEYS[1], number, ARGV[1])
redis.call('ZADD', KEYS[2], ends, ARGV[1])
return number
