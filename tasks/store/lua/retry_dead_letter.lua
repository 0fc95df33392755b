-- Move a dead letter's message back to the end of a queue. Removes the message's id from deduplication, so that it is not dropped as a
-- duplicate of itself.
--
-- KEYS  1 dead (hash)  2 queue (list)  3 young and 4 old remembered ids (sets)
--       5 raw messages that are too long for their dead letter (hash); such a message is moved without leaving the server
-- ARGV  1 id of the dead letter  2 raw message from the dead letter  3 the message's id, as deduplication stores it
-- Returns 1 if the dead letter existed and its message was moved, else 0.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
-- The push comes first: if it fails because the queue has the wrong type, the script ends and the dead letter is kept.
redis.call('LPUSH', KEYS[2], redis.call('HGET', KEYS[5], ARGV[1]) or ARGV[2])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[3])
redis.call('SREM', KEYS[4], ARGV[3])
return 1
