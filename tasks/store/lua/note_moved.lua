-- Where partitions are on several servers: note on the control server that all keys of a partition have moved. Doing it again changes nothing.
--
-- KEYS  1 group (hash)  2 moved (hash: partition → epoch)
-- ARGV  1 epoch  2 partition  3 how many partitions must move their keys  4 channel `changed`

if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'moving') == 0 then
  return
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[1])
local count = 0
local found = redis.call('HGETALL', KEYS[2])
for i = 2, #found, 2 do
  if found[i] == ARGV[1] then count = count + 1 end
end
if count >= tonumber(ARGV[3]) then
  local time = redis.call('TIME')
  redis.call('HDEL', KEYS[1], 'moving')
  redis.call('HSET', KEYS[1], 'settled', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
end
redis.call('PUBLISH', ARGV[4], '')
