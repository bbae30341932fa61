-- Shows that an instance lives, and sees who else does.
-- KEYS: beats, infos, dead, departed, claims, lease, epoch
-- ARGV: instance, info, lease in ms, an epoch if there is none, 1 to
--       beat or 0 only to look
local me = ARGV[1]
local line = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local epoch = redis.call('GET', KEYS[7])
if not epoch then
  epoch = ARGV[4]
  redis.call('SET', KEYS[7], epoch)
end
if redis.call('ZSCORE', KEYS[3], me) then
  return {0, epoch, line}
end
-- One that has said goodbye may have a beat under way.
if ARGV[5] == '1' and redis.call('HEXISTS', KEYS[4], me) == 0 then
  local n = redis.call('HINCRBY', KEYS[1], me, 1)
  redis.call('HSET', KEYS[2], me, ARGV[2])
  redis.call('SET', KEYS[6], n, 'PX', ARGV[3])
end
return {1, epoch, line, redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[4]), redis.call('HGETALL', KEYS[5])}
