-- Read the group's secret of follow-ups, or create it.
--
-- KEYS  1 group_meta (hash)
-- ARGV  1 field  2 the secret, if there is none
-- Returns the secret.

local secret = redis.call('HGET', KEYS[1], ARGV[1])
if not secret then
  -- A full server refuses a script if its first write needs memory, so begin with a deletion. A worker must be able to start there, to empty it.
  redis.call('HDEL', KEYS[1], '')
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  secret = ARGV[2]
end
return secret
