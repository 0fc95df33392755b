-- Note that a message exceeded its time limit in a process that is about to be replaced for it: the next owner counts it as
-- failed, without running it.
--
-- KEYS  1 tokens (hash)  2 tries (hash)  3 facts (hash)
-- ARGV  1 unit  2 token  3 SHA-1 of the message  4 why, as text  5 how many messages are to be run one by one to find it
-- Returns 1; 0 when another owner has taken over: nothing is noted.

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[3], 'hang:' .. ARGV[4])
redis.call('HSET', KEYS[3], 'suspect', ARGV[5])
return 1
