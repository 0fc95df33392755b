-- Note that a message exceeded its time limit in a process that is about to be replaced for it: the next owner counts it as
-- failed, without running it.
--
-- KEYS  1 meta (hash)  2 tries (hash)
-- ARGV  1 token  2 SHA-1 of the message  3 why, as text  4 how many messages are to be noted before they run, to find it
-- Returns 1; 0 when another owner has taken over: nothing is noted.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[2], 'hang:' .. ARGV[3])
redis.call('HSET', KEYS[1], 'to_isolate', ARGV[4])
return 1
