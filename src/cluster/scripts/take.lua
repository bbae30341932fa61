-- Takes tokens from a bucket.
-- KEYS: the bucket
-- ARGV: tokens a second, most tokens it holds, how many are wanted
-- Answers how many were taken, and after how many ms there will be one.
local rate, most, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bucket = redis.call('HMGET', KEYS[1], 'n', 't')
local n = math.min(most, (tonumber(bucket[1]) or most) + math.max(0, now - (tonumber(bucket[2]) or now)) * rate / 1000)
local taken = math.min(wanted, math.floor(n))
n = n - taken
redis.call('HSET', KEYS[1], 'n', tostring(n), 't', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(most / rate * 1000) + 1000)
return {taken, n >= 1 and 0 or math.ceil((1 - n) / rate * 1000)}
