-- KEYS: members, order, users, members of the instance, cleaned instances, count
-- A member's value is a letter, its user, a zero byte, and the frame that says
-- that it left. The letter says who is told of: c each connection, u the first
-- and last of a user (each without a user counts for itself), - nobody.
local function user_of(value)
  return string.sub(value, 2, string.find(value, '\0', 1, true) - 1)
end

local function is_told(value, user, others)
  local letter = string.sub(value, 1, 1)
  return letter == 'c' or letter == 'u' and (others <= 0 or user == '')
end

-- Takes one out and tells of it. Answers its value and whether it was its
-- user's last.
local function take_out(id, publish, channel)
  local value = redis.call('HGET', KEYS[1], id)
  if not value then
    redis.call('SREM', KEYS[4], id)
    return nil, false
  end
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('SREM', KEYS[4], id)
  local user = user_of(value)
  local left = redis.call('HINCRBY', KEYS[3], user, -1)
  if left <= 0 then redis.call('HDEL', KEYS[3], user) end
  if is_told(value, user, left) then
    redis.call(publish, channel, string.sub(value, string.find(value, '\0', 1, true) + 1))
  end
  return value, left <= 0 or user == ''
end
