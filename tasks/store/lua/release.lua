-- Release a partition. Its token increases, so that a commit of this worker that is still on its way is refused. So does `since`: the worker's
-- lease keeper may have read the assignment before it is removed, and must not claim the partition for it again. The next owner would find a
-- holder, as if this worker had died.
--
-- KEYS  1 meta (hash)  2 isolation (hash)
-- ARGV  1 worker id  2 token
-- Returns 1, or 0 if this worker did not hold the partition with this token.

local me, token = ARGV[1], ARGV[2]
local found = redis.call('HMGET', KEYS[1], 'token', 'holder')
if found[1] ~= token or found[2] ~= me then
  return 0
end
redis.call('HDEL', KEYS[1], 'holder')
redis.call('HINCRBY', KEYS[1], 'token', 1)
redis.call('HINCRBY', KEYS[1], 'since', 1)
-- The worker did not die, so its notes about messages must not count as deaths.
local notes = redis.call('HGETALL', KEYS[2])
for i = 1, #notes, 2 do
  if string.sub(notes[i + 1], 1, #token + 1) == token .. ':' then redis.call('HDEL', KEYS[2], notes[i]) end
end
return 1
