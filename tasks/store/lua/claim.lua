-- Take a partition that `balance` has assigned, and get the fencing token for it: commits with any earlier token are refused from then on.
--
-- KEYS  1 meta (hash)
-- ARGV  1 worker id  2 since: number of the assignment  3 how many messages are to be noted before they run when the last holder died
--       (0: none)
-- Returns {status, token, edit_version, paused}, or {"superseded", since}
--   status   "ok", or "superseded": the partition was claimed already for a later assignment, whose number is `since`. This worker was slow, or
--            the group has lost data. Nothing is written
--   paused   1 or 0
-- `balance` assigns a partition again only when the lease of its holder has ended or it was released, so a claim for a later assignment never
-- takes the partition from a holder whose lease goes on.

local me, since, to_isolate = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HMGET', KEYS[1], 'token', 'holder', 'since', 'edit_version', 'paused')
local holder, last = found[2], found[3] or '0'
if tonumber(last) > tonumber(since) then
  return { 'superseded', last }
end
-- A server that is full refuses a script's first write, unless it is one that frees.
redis.call('HDEL', KEYS[1], '')
-- A holder that ends as it should releases first; one that did not may have been ended by a message.
if holder and holder ~= me and to_isolate ~= '0' then
  redis.call('HSET', KEYS[1], 'to_isolate', to_isolate)
end
-- By the clock, and not counted: a server that comes back empty, or with older data, would count to a token that it gave
-- before, and a worker that still has that one could write.
local time = redis.call('TIME')
local before = tonumber(found[1] or '0')
local token = string.format('%.0f', math.max(before + 1, time[1] * 1000000 + time[2]))
redis.call('HSET', KEYS[1], 'token', token, 'holder', me, 'since', since)
return { 'ok', token, found[4] or '0', found[5] and 1 or 0 }
