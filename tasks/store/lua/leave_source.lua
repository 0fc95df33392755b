-- Release the lease of a source, so that a waiting process can take it immediately.
--
-- KEYS  1 the source (hash)
-- ARGV  1 token
-- Returns 1, or 0 if another process has the lease

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
redis.call('HDEL', KEYS[1], 'owner', 'until')
return 1
