-- Writes a document of a room, if nobody else has in the meantime.
-- KEYS: documents of the room
-- ARGV: name, version it was read at, document or '' to delete it, publish
--       command, channel, frame, how long to keep it unused in ms or 0, how
--       many there may be
-- Answers {1, the new version}, {0, the version that is there, the document} or
-- {2} if there are as many as there may be.
-- The field with the empty name has the version of all that is not there.
local function split(value)
  local at = string.find(value, ' ', 1, true)
  if not at then return nil end
  return tonumber(string.sub(value, 1, at - 1)), string.sub(value, at + 1)
end
local count = tonumber(ARGV[8])
local floor = tonumber(redis.call('HGET', KEYS[1], '') or '0')
local version, document = floor, ''
local value = redis.call('HGET', KEYS[1], ARGV[1])
if value then version, document = split(value) end
if version ~= tonumber(ARGV[2]) then return {0, version, document} end
if document == '' and ARGV[3] ~= '' then
  local live = 0
  for _, other in ipairs(redis.call('HVALS', KEYS[1])) do
    local _, text = split(other)
    if text and text ~= '' then live = live + 1 end
  end
  if live >= count then return {2} end
end
version = version + 1
-- A deleted one keeps its version, so that a late writer notices.
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', version) .. ' ' .. ARGV[3])
if redis.call('HLEN', KEYS[1]) > 2 * count + 1 then
  local all = redis.call('HGETALL', KEYS[1])
  for n = 1, #all, 2 do
    local dead, text = split(all[n + 1])
    if text == '' then
      if dead > floor then floor = dead end
      redis.call('HDEL', KEYS[1], all[n])
    end
  end
  redis.call('HSET', KEYS[1], '', string.format('%.0f', floor))
end
if tonumber(ARGV[7]) > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[7])
else
  redis.call('PERSIST', KEYS[1])
end
redis.call(ARGV[4], ARGV[5], ARGV[6])
return {1, version}
