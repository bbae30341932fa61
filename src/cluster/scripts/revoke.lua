-- Notes that a token, or all of a user, was taken back.
-- KEYS: what was, by number; the same by when it need not be known any more;
--       the last number and the epoch of the count
-- ARGV: what, until when in s since 1970, how many may be known, an epoch for a
--       count that begins
-- Answers its number, or 0 if there are as many already.
local now = redis.call('TIME')[1]
local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 1000)
if #over > 0 then
  redis.call('ZREM', KEYS[1], unpack(over))
  redis.call('ZREM', KEYS[2], unpack(over))
end
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not known and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('HSETNX', KEYS[3], 'epoch', ARGV[4])
local number = redis.call('HINCRBY', KEYS[3], 'last', 1)
redis.call('ZADD', KEYS[1], number, ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return number
