-- During a resize, where partitions are on several servers: how far a partition has got on.
--
-- KEYS  1 meta (hash)  2 tails of the outbox (hash)  3… its lists: queue, inbox, priority lists
-- ARGV  1 a partition that gets messages from this one; or ""  2 a mark, or "": if it is a new one, this partition's messages are counted
-- Returns {removed, left, sent, moved, passed_on, marked}
--   removed  how many messages were taken from its lists so far; left: how many it has
--   sent     the tail of the last entry in its outbox for ARGV[1]
--   marked   `removed` will have this value once all messages that were there at the mark are taken

local meta = redis.call('HMGET', KEYS[1], 'removed', 'moved', 'passed_on', 'mark of', 'mark')
local removed, left, marked = tonumber(meta[1] or '0'), 0, tonumber(meta[5] or '0')
for i = 3, #KEYS do left = left + redis.call('LLEN', KEYS[i]) end
if ARGV[2] ~= '' and meta[4] ~= ARGV[2] then
  marked = removed + left
  redis.call('HSET', KEYS[1], 'mark of', ARGV[2], 'mark', string.format('%.0f', marked))
end
return { removed, left, redis.call('HGET', KEYS[2], ARGV[1]) or '', tonumber(meta[2] or '0'), tonumber(meta[3] or '0'), marked }
