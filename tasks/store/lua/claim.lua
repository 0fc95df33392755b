-- Claim a partition that `balance` has assigned, and get its fencing token. From then on commits with an earlier token are refused.
--
-- KEYS  1 meta (hash)
-- ARGV  1 worker id  2 since: number of the assignment  3 number of messages to run in isolation if the last holder died (0: none)
--       4… field of meta with a computation's highest written version, the highest version that the worker can read, field, version, …
-- Returns {status, token, edit_version, paused}, {"superseded", since}, or {"unreadable", field, version}
--   status   "ok", or "superseded": the partition was already claimed for a later assignment, with the number `since`. This worker was
--            slow, or the group's keys lost data. Nothing is written. Or "unreadable": newer code wrote states with this version, which the
--            worker cannot read. Nothing is written
--   paused   1 or 0
-- `balance` assigns a partition again only after its holder's lease has ended or the partition was released. So a claim for a later
-- assignment never takes the partition from a holder whose lease is valid.

local me, since, to_isolate = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HMGET', KEYS[1], 'token', 'holder', 'since', 'edit_version', 'paused', 'takeovers')
local holder, last = found[2], found[3] or '0'
if tonumber(last) > tonumber(since) then
  return { 'superseded', last }
end
for i = 4, #ARGV, 2 do
  local written = redis.call('HGET', KEYS[1], ARGV[i])
  if written and not (tonumber(written) and tonumber(written) <= tonumber(ARGV[i + 1])) then
    return { 'unreadable', ARGV[i], written }
  end
end
-- A full server refuses a script if its first write needs memory, so begin with a deletion.
redis.call('HDEL', KEYS[1], '')
-- A holder that stops normally releases first. One that did not may have been killed by a message.
if holder and holder ~= me and to_isolate ~= '0' then
  redis.call('HSET', KEYS[1], 'to_isolate', to_isolate)
end
local time = redis.call('TIME')
if holder and holder ~= me then
  local times = { string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)) }
  for at in string.gmatch(found[6] or '', '%d+') do
    if #times < 10 then times[#times + 1] = at end
  end
  redis.call('HSET', KEYS[1], 'takeovers', table.concat(times, ' '))
end
-- From the clock, not a counter. A server that comes back empty, or with older data, could count to a token that it gave before, and a
-- worker that still has that token could write.
local before = tonumber(found[1] or '0')
local token = string.format('%.0f', math.max(before + 1, time[1] * 1000000 + time[2]))
redis.call('HSET', KEYS[1], 'token', token, 'holder', me, 'since', since)
return { 'ok', token, found[4] or '0', found[5] and 1 or 0 }
