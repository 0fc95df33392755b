-- The next entries of a stream for the process that has its source's lease: first those that were read and not acknowledged.
-- An entry that another process, whose lease has ended, could still take would be seen by nobody.
--
-- KEYS  1 the source (hash)  2 the stream
-- ARGV  1 token  2 consumer group, and consumer  3 most entries  4 id to read after: of entries that were read before; ">": new ones
-- Returns the entries, as XREADGROUP does; {} when there is none; the text "fenced" when another process has the lease

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 'fenced'
end
local read = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[2], ARGV[4])
return read and read[1][2] or {}
