-- Remove assignments that `balance` made to a worker, and with "leave" its membership.
--
-- KEYS  1 workers (zset)  2 pins (hash)  3 owners (hash)  4 since (hash)  5 draining (hash)
--       6 tasks (hash)  7 reads (hash)  8 refused (hash)
-- ARGV  1 worker id  2 "leave" or ""  3 channel `changed`  4… partition, since, partition, since, …: the partition's next assignment gets a
--       higher number than `since`
-- Publishes on `changed` if a partition became free or the worker left.

local me, leave, changed = ARGV[1], ARGV[2] == 'leave', false
for i = 4, #ARGV, 2 do
  if redis.call('HGET', KEYS[3], ARGV[i]) == me then
    redis.call('HDEL', KEYS[3], ARGV[i])
    if tonumber(ARGV[i + 1]) > tonumber(redis.call('HGET', KEYS[4], ARGV[i]) or '0') then
      redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1])
    end
    changed = true
  end
end
if leave then
  redis.call('ZREM', KEYS[1], me)
  redis.call('HDEL', KEYS[2], me)
  for i = 5, 8 do redis.call('HDEL', KEYS[i], me) end
end
if changed or leave then
  redis.call('PUBLISH', ARGV[3], me)
end
