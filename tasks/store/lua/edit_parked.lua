-- What an operator does to a parked key, if it still stands as it was seen: try its first message now, or take that message out
-- and let the key go on with the next one.
--
-- KEYS  1 parked (hash)  2 mailbox (list)  3 meta (hash)  4 dead (hash)  5 audit (stream)
-- ARGV  1 key  2 SHA-1 of the parked record seen  3 SHA-1 of the mailbox's oldest message seen; "" it was empty
--       4 "take" the oldest message out, or "keep" it  5 the key's record while messages are left
--       6 a dead letter to write: its id, "" none  7 the dead letter  8 the id of a dead letter to delete, "" none
--       9 channel `changed`  10 records the audit keeps, about  11 who  12 what  13 detail (JSON)
-- Returns "ok", or "changed": the key stands otherwise meanwhile (or is parked no more), and nothing was written.
-- Publishes on `changed`. The edit_version refuses what a worker has under way for the partition.

local record, head = redis.call('HGET', KEYS[1], ARGV[1]), redis.call('LINDEX', KEYS[2], -1)
if not record or redis.sha1hex(record) ~= ARGV[2] or (head and redis.sha1hex(head) or '') ~= ARGV[3] then
  return 'changed'
end
-- The record first: where it can't be written, nothing is done.
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[10], '*', 'who', ARGV[11], 'what', ARGV[12], 'detail', ARGV[13])
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
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('HINCRBY', KEYS[3], 'edit_version', 1)
redis.call('PUBLISH', ARGV[9], '')
return 'ok'
