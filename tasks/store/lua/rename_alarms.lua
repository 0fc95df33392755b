-- Rename alarms of timers, those that are still there.
--
-- KEYS  1 delayed (zset)
-- ARGV  1… alarm, the same with the new name, alarm, …
-- Returns how many were renamed

local count = 0
for i = 1, #ARGV, 2 do
  local due = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if due then
    redis.call('ZREM', KEYS[1], ARGV[i])
    redis.call('ZADD', KEYS[1], 'LT', due, ARGV[i + 1])
    count = count + 1
  end
end
return count
