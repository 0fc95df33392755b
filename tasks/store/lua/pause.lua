-- Pause units, or let them go on.
--
-- KEYS  1 audit (stream)  2… the facts (hash) of each unit
-- ARGV  1 "pause" or "resume"  2 channel `changed`  3 records the audit keeps, about  4 who  5 what  6 detail (JSON)
-- Returns the numbers, from 1 on, of the units that were not so before.
-- Publishes on `changed` when there is one.

local changed = {}
for i = 2, #KEYS do
  if (redis.call('HEXISTS', KEYS[i], 'paused') == 1) ~= (ARGV[1] == 'pause') then
    changed[#changed + 1] = i - 1
  end
end
if #changed == 0 then
  return changed
end
-- The record first: where it can't be written, nothing is done.
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'who', ARGV[4], 'what', ARGV[5], 'detail', ARGV[6])
for _, number in ipairs(changed) do
  if ARGV[1] == 'pause' then
    redis.call('HSET', KEYS[number + 1], 'paused', 1)
  else
    redis.call('HDEL', KEYS[number + 1], 'paused')
  end
end
redis.call('PUBLISH', ARGV[2], '')
return changed
