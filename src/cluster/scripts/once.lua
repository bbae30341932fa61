-- Publishes a message that nothing keeps, unless its key was used before, in
-- one step: who does not hear the answer and tries again repeats nothing, and
-- leaves nothing out.
-- KEYS: where the key is noted
-- ARGV: publish command, channel, frame, how long to remember the key in ms
-- Answers 1, or 0 if the key was known.
if not redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[4]) then return 0 end
redis.call(ARGV[1], ARGV[2], ARGV[3])
return 1
