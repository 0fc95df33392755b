-- Give the lease of a source up, so that a process that stands by takes it at once.
--
-- KEYS  1 the source (hash)
-- ARGV  1 token
-- Returns 1, or 0 when another process has it

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'owner', 'until')
return 1
