-- Take back that a worker ended over a message that it ran alone: it lives, and had only lost its lease.
--
-- KEYS  1 tries (hash)
-- ARGV  1 token of the lease that was lost  2 SHA-1 of the message
-- Returns 1 when a note was changed, else 0.

local note = redis.call('HGET', KEYS[1], ARGV[2]) or ''
local token, deaths = string.match(note, '^(%d+):(%d+)$')
if not token then
  return 0
end
if token == ARGV[1] then
  return redis.call('HDEL', KEYS[1], ARGV[2])
end
if deaths == '0' then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[2], string.format('%s:%d', token, deaths - 1))
return 1
