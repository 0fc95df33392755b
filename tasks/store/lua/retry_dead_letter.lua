-- Put a dead letter back: to the end of a queue, and out of the dead letters. Its id counts as not seen, so that it is no
-- duplicate of itself.
--
-- KEYS  1 dead (hash)  2 queue (list)  3 young and 4 old ids seen (sets)
--       5 messages kept apart from their dead letters (hash): what is there is taken, and never leaves the server
-- ARGV  1 id of the dead letter  2 raw message, as read from the record  3 the message's id, as it is remembered
-- Returns 1 when it was still there and went back, else 0.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
-- In this order: a push that fails (the queue's name holds another type) ends the script with the dead letter still there.
redis.call('LPUSH', KEYS[2], redis.call('HGET', KEYS[5], ARGV[1]) or ARGV[2])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[3])
redis.call('SREM', KEYS[4], ARGV[3])
return 1
