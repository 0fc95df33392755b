-- Delete a key's state. Increases edit_version: the next commit of a worker that has the state in memory is refused as stale. An idle worker
-- drops the state after the message on `changed`.
--
-- KEYS  1 state (hash)  2 meta (hash)
-- ARGV  1 key  2 channel `changed`
-- Returns 1 if there was a state, else 0.

local gone = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[2], 'edit_version', 1)
redis.call('PUBLISH', ARGV[2], '')
return gone
