-- A page of a room's members, in the order in which they came.
-- KEYS: members, order
-- ARGV: where the page before ended, how many
-- Answers where this one ends, or 0 if nothing follows, and the values.
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local values, last = {}, 0
for i = 1, #found, 2 do
  values[#values + 1] = redis.call('HGET', KEYS[1], found[i]) or ''
  last = found[i + 1]
end
if #values < tonumber(ARGV[2]) then last = 0 end
return {tostring(last), values}
