-- What was taken back behind a number.
-- KEYS: what was, by number; the last number and the epoch of the count
-- ARGV: the epoch and the number that are known, how many are read at once
-- Answers the epoch, the last number, and each with its number behind it; of
-- another epoch from its beginning.
local count = redis.call('HMGET', KEYS[2], 'epoch', 'last')
local epoch, last = count[1] or '', tonumber(count[2] or 0)
local known = epoch == ARGV[1] and ARGV[2] or 0
if last <= tonumber(known) then return {epoch, last, {}} end
return {epoch, last, redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. known, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])}
