-- An operator's edit of a parked key, if the key is still as the operator saw it: retry its first message now, or remove that message and
-- continue with the next one.
--
-- KEYS  1 parked (hash)  2 mailbox (list)  3 meta (hash)  4 dead (hash)  5 audit (stream)  6 when parked keys are due (zset)
-- ARGV  1 key  2 SHA-1 of the record that the operator saw  3 SHA-1 of the mailbox's oldest message that the operator saw; "": it was empty
--       4 "take": remove the oldest message; "keep": leave it  5 the key's new record, if messages are left
--       6 id of a dead letter to write, "": none  7 that dead letter  8 id of a dead letter to delete, "": none
--       9 channel `changed`  10 when the new record is due (ms)  11 approximate maximum length of the audit  12 who  13 what
--       14 detail (JSON)
-- Returns "ok", or "changed": the key has changed or is not parked any more; nothing is written.
-- Publishes on `changed`. Increases edit_version, so that a batch that a worker is running for the partition is refused.

local record, head = redis.call('HGET', KEYS[1], ARGV[1]), redis.call('LINDEX', KEYS[2], -1)
if not record or redis.sha1hex(record) ~= ARGV[2] or (head and redis.sha1hex(head) or '') ~= ARGV[3] then
  return 'changed'
end
-- Write the audit entry first: if that fails, nothing else is done.
redis.call('XDEL', KEYS[5], '0-1')  -- nothing; a full server refuses a script if its first write needs memory
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[11], '*', 'who', ARGV[12], 'what', ARGV[13], 'detail', ARGV[14])
if ARGV[8] ~= '' then
  redis.call('HDEL', KEYS[4], ARGV[8])
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[4], ARGV[6], ARGV[7])
end
if ARGV[4] == 'take' then
  redis.call('RPOP', KEYS[2])
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[5])
  redis.call('ZADD', KEYS[6], ARGV[10], ARGV[1])
else
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[6], ARGV[1])
end
redis.call('HINCRBY', KEYS[3], 'edit_version', 1)
redis.call('PUBLISH', ARGV[9], '')
return 'ok'
