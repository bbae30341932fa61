-- KEYS: members, order, users, members of the instance, cleaned instances, count
-- A member's value is its user, a zero byte, and the frame that says it left.
-- Nobody is first or last among the anonymous: each counts for itself.
local function user_of(value)
  return string.sub(value, 1, string.find(value, '\0', 1, true) - 1)
end

-- Takes one out. Answers its value and whether it was its user's last.
local function take_out(id)
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
  return value, left <= 0 or user == ''
end
