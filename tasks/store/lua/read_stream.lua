-- Read the next entries of a stream, for the process that has the source's lease.
-- The script checks the lease, because an entry given to a process whose lease has ended would be lost to the others.
--
-- KEYS  1 the source (hash)  2 the stream
-- ARGV  1 token  2 name of the consumer group and the consumer  3 the maximum number of entries
--       4 ">": new entries; an id: entries after it that were read before and not acknowledged
-- Returns the entries, as XREADGROUP does; {} if there are none; the text "fenced" if another process has the lease

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 'fenced'
end
local read = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[2], ARGV[4])
return read and read[1][2] or {}
