-- Put dead letters back: each to the end of a queue, and out of the dead letters.
--
-- KEYS  1 dead (hash)  2 messages kept apart from their letters (hash): what is there is taken, and never leaves the server
-- ARGV  id, queue, raw message; id, queue, raw message; …  (the raw message as read from the record)
-- Returns how many were still there and went back.

local back = 0
for i = 1, #ARGV, 3 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    -- In this order: a push that fails (the queue's name holds another type) ends the script with the letter still there.
    redis.call('LPUSH', ARGV[i + 1], redis.call('HGET', KEYS[2], ARGV[i]) or ARGV[i + 2])
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('HDEL', KEYS[2], ARGV[i])
    back = back + 1
  end
end
return back
