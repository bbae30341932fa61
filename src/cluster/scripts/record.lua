-- Writes a document of a room, if nobody else has in the meantime.
-- KEYS: documents of the room
-- ARGV: name, version it was read at, document or '' to delete it, publish
--       command, channel, frame, how long to keep it unused in ms or 0
-- Answers {1, the new version} or {0, the version that is there, the document}.
local value = redis.call('HGET', KEYS[1], ARGV[1])
local version, document = 0, ''
if value then
  local at = string.find(value, ' ', 1, true)
  version, document = tonumber(string.sub(value, 1, at - 1)), string.sub(value, at + 1)
end
if version ~= tonumber(ARGV[2]) then return {0, version, document} end
version = version + 1
-- A deleted one keeps its version, so that a late writer notices.
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', version) .. ' ' .. ARGV[3])
if tonumber(ARGV[7]) > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[7]) end
redis.call(ARGV[4], ARGV[5], ARGV[6])
return {1, version}
