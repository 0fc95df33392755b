-- Replace or delete a key's state, if it is still what the operator saw. Increases edit_version: the next commit of a worker that has the
-- old state in memory is refused as stale, and the worker applies its messages to the new state.
--
-- KEYS  1 state (hash)  2 meta (hash)  3 audit (stream)
-- ARGV  1 key  2 SHA-1 of the state that the operator saw; "": there was none  3 "set" or "delete"  4 new state
--       5 channel `changed`  6 approximate maximum length of the audit  7 who  8 what  9 detail (JSON)
--       10 field of meta with the highest version of these states  11 version of the new state; 0: none
-- Returns "ok", or "changed": the state has changed meanwhile; nothing is written.
-- Publishes on `changed`.

local now = redis.call('HGET', KEYS[1], ARGV[1])
local seen = now and redis.sha1hex(now) or ''
if seen ~= ARGV[2] then
  return 'changed'
end
-- Write the audit entry first: if that fails, nothing else is done.
redis.call('XDEL', KEYS[3], '0-1')  -- nothing; a full server refuses a script if its first write needs memory
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'who', ARGV[7], 'what', ARGV[8], 'detail', ARGV[9])
if ARGV[3] == 'set' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('HINCRBY', KEYS[2], 'edit_version', 1)
-- The first state of newer code: the holder may be unable to read it, so it must claim the partition again.
if tonumber(ARGV[11]) > (tonumber(redis.call('HGET', KEYS[2], ARGV[10]) or '1') or 1) then
  redis.call('HSET', KEYS[2], ARGV[10], ARGV[11])
  redis.call('HDEL', KEYS[2], 'holder')
  redis.call('HINCRBY', KEYS[2], 'token', 1)
end
redis.call('PUBLISH', ARGV[5], '')
return 'ok'
