-- Remove the oldest entries of an outbox, which were sent.
--
-- KEYS  1 meta (hash)  2 outbox (list)
-- ARGV  1 token of the holder  2 number of entries  3 SHA-1 of the last of them
-- Returns 1, or 0: another owner has taken over, or they are not the oldest any more; nothing is removed.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
local last = redis.call('LINDEX', KEYS[2], ARGV[2] - 1)
if not last or redis.sha1hex(last) ~= ARGV[3] then
  return 0
end
redis.call('LTRIM', KEYS[2], ARGV[2], -1)
return 1
