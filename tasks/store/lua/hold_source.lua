-- Take or renew the lease of a source, so that only one process reads it.
--
-- KEYS  1 the source (hash)
-- ARGV  1 process id  2 lease, ms
-- Returns {token, left, number, position, ended}
--   token     the lease's token; 0 if another process has the lease
--   left      ms until the lease ends, this process's or the other's
--   number    number of pushes so far
--   position  what the last push wrote; "" at first
--   ended     1 if there is nothing more to read

local me, lease = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local facts = redis.call('HMGET', KEYS[1], 'owner', 'until', 'token', 'number', 'position', 'ended')
local owner, left = facts[1], (tonumber(facts[2] or '0') or 0) - now
local token = facts[3] or '0'
if owner and owner ~= me and left > 0 then
  return { '0', left, facts[4] or '0', '', 0 }
end
if owner ~= me then
  -- From the clock, so that a server that comes back with older data does not give the same token twice.
  token = string.format('%.0f', math.max(tonumber(token) + 1, time[1] * 1000000 + time[2]))
end
redis.call('HSET', KEYS[1], 'owner', me, 'token', token, 'until', string.format('%.0f', now + lease))
return { token, lease, facts[4] or '0', facts[5] or '', facts[6] == '1' and 1 or 0 }
