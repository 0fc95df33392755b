-- Give a partition up. Its token grows: a commit of this worker that is still on its way is refused from then on.
--
-- KEYS  1 meta (hash)  2 tries (hash)
-- ARGV  1 worker id  2 token
-- Returns 1, or 0 when the partition was not this worker's under this token.

local me, token = ARGV[1], ARGV[2]
local found = redis.call('HMGET', KEYS[1], 'token', 'holder')
if found[1] ~= token or found[2] ~= me then
  return 0
end
redis.call('HDEL', KEYS[1], 'holder')
redis.call('HINCRBY', KEYS[1], 'token', 1)
-- It did not die over the messages that it had noted.
local notes = redis.call('HGETALL', KEYS[2])
for i = 1, #notes, 2 do
  if string.sub(notes[i + 1], 1, #token + 1) == token .. ':' then redis.call('HDEL', KEYS[2], notes[i]) end
end
return 1
