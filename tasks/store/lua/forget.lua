-- Delete a key's state. A worker that holds it in memory is told by the edit_version: its next commit is refused as stale; an idle
-- one looks anew because of the message on `changed`.
--
-- KEYS  1 state (hash)  2 meta (hash)
-- ARGV  1 key  2 channel `changed`
-- Returns 1 when there was a state, else 0.

local gone = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[2], 'edit_version', 1)
redis.call('PUBLISH', ARGV[2], '')
return gone
