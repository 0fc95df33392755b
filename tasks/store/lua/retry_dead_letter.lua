-- Put dead letters back: each to the end of a queue, and out of the dead letters.
--
-- KEYS  1 dead (hash)
-- ARGV  id, queue, raw message; id, queue, raw message; …  (the raw message as read from the record)
-- Returns how many were still there and went back.

local back = 0
for i = 1, #ARGV, 3 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    -- In this order: a push that fails (the queue's name holds another type) ends the script with the letter still there.
    redis.call('LPUSH', ARGV[i + 1], ARGV[i + 2])
    redis.call('HDEL', KEYS[1], ARGV[i])
    back = back + 1
  end
end
return back
