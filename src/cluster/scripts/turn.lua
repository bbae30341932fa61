-- Whose turn a job is: one instance's until it is gone.
-- KEYS: jobs, beats
-- ARGV: job, instance
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 0 then return 0 end
local owner = redis.call('HGET', KEYS[1], ARGV[1])
if owner == ARGV[2] then return 1 end
if owner and redis.call('HEXISTS', KEYS[2], owner) == 1 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
