-- What a room keeps of its messages.
-- KEYS[1]: about it: the epoch, the offset of the newest message, the line, the
--          past epochs; KEYS[2]: the stream, whose ids are the offsets
--
-- The line is the server's replication id. It changes when another server has
-- become the master or this one has begun anew, and then the newest messages
-- may be lost while clients know them: a new epoch begins, and the past one is
-- noted with the offset up to which both agree.
local function touch(fresh)
  local line = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  local about = redis.call('HMGET', KEYS[1], 'epoch', 'top', 'line', 'past')
  if not about[1] then
    -- This first: a full Redis refuses it, and would not once something was
    -- deleted.
    redis.call('HSET', KEYS[1], 'epoch', fresh, 'top', 0, 'line', line, 'past', '')
    redis.call('DEL', KEYS[2])
    redis.call('PEXPIRE', KEYS[1], 86400000)
    return fresh, 0, ''
  end
  local epoch, top, past = about[1], tonumber(about[2]), about[4]
  if about[3] ~= line then
    past = string.sub(epoch .. '=' .. about[2] .. ' ' .. past, 1, 400)
    epoch = fresh
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'line', line, 'past', past)
  end
  return epoch, top, past
end

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
