-- Delete what a computation has left in a partition.
--
-- KEYS  1 meta (hash)  2… keys of the computation alone
-- ARGV  fields of meta
-- Returns how many of the keys existed

local count = 0
for i = 2, #KEYS do count = count + redis.call('UNLINK', KEYS[i]) end
redis.call('HDEL', KEYS[1], unpack(ARGV))
return count
