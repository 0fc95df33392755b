-- Note that a message exceeded its time limit. The process is about to be replaced. The next owner counts the message as failed, without
-- running it.
--
-- KEYS  1 meta (hash)  2 isolation (hash)
-- ARGV  1 token  2 SHA-1 of the message  3 the error, as text  4 number of messages to run in isolation, so that the next owner finds it
-- Returns 1, or 0 if another owner has taken over; then nothing is noted.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[2], 'hang:' .. ARGV[3])
redis.call('HSET', KEYS[1], 'to_isolate', ARGV[4])
return 1
