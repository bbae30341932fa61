-- What was taken back behind a number.
-- KEYS: what was, by number; the last number and the epoch of the count; of
--       each, its moments
-- ARGV: the epoch and the number that are known, how many are read at once
-- Answers the epoch, the last number, and each with its moments and its number
-- behind it; of another epoch from its beginning.
--
-- The epoch has the server's replication id in it: where another server has
-- become the master, the newest may be lost, and whoever knows them tells them
-- again.
local count = redis.call('HMGET', KEYS[2], 'epoch', 'last')
if not count[1] then return {'', 0, {}} end
local line = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local epoch, last = count[1] .. ' ' .. line, tonumber(count[2] or 0)
local known = epoch == ARGV[1] and ARGV[2] or 0
if last <= tonumber(known) then return {epoch, last, {}} end
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. known, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local answer = {}
for n = 1, #found, 2 do
  answer[#answer + 1] = found[n]
  answer[#answer + 1] = redis.call('HGET', KEYS[3], found[n]) or ''
  answer[#answer + 1] = found[n + 1]
end
return {epoch, last, answer}
