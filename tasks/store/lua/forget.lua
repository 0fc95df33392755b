-- Delete a key's state. Increases edit_version: the next commit of a worker that has the state in memory is refused as stale. An idle worker
-- drops the state after the message on `changed`.
--
-- The key's timeline goes too, because it has older states.
--
-- KEYS  1 state (hash)  2 meta (hash)  3 timelines (hash)
-- ARGV  1 key  2 channel `changed`
-- Returns 1 if there was a state, else 0.

local gone = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[2], 'edit_version', 1)
local length = redis.call('HSTRLEN', KEYS[3], ARGV[1])
if length > 0 then
  redis.call('HDEL', KEYS[3], ARGV[1])
  redis.call('HINCRBY', KEYS[2], 'timeline_bytes', -length)
end
redis.call('PUBLISH', ARGV[2], '')
return gone
