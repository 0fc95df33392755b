-- Put another state in a key's place, or delete it, if it still is what the operator saw. The edit_version tells a worker that
-- holds the old one: its next commit is refused as stale, and it applies its messages to the new one.
--
-- KEYS  1 state (hash)  2 meta (hash)  3 audit (stream)
-- ARGV  1 key  2 SHA-1 of the state that the operator saw; "" there was none  3 "set" or "delete"  4 new state
--       5 channel `changed`  6 records the audit keeps, about  7 who  8 what  9 detail (JSON)
-- Returns "ok", or "changed": the state is another one meanwhile, and nothing was written.
-- Publishes on `changed`.

local now = redis.call('HGET', KEYS[1], ARGV[1])
local seen = now and redis.sha1hex(now) or ''
if seen ~= ARGV[2] then
  return 'changed'
end
-- The record first: where it can't be written, nothing is done.
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', 'who', ARGV[7], 'what', ARGV[8], 'detail', ARGV[9])
if ARGV[3] == 'set' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('HINCRBY', KEYS[2], 'edit_version', 1)
redis.call('PUBLISH', ARGV[5], '')
return 'ok'
