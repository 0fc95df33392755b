-- Make the workers with a node name release all partitions and take no more, or to take their share again.
-- `balance` acts on it, and removes the entry of a worker that has ended.
--
-- KEYS  1 workers (zset)  2 draining (hash)  3 audit (stream)
-- ARGV  1 node name  2 "drain" or "undrain"  3 channel `changed`  4 approximate maximum length of the audit  5 who  6 what  7 detail (JSON)
-- Returns "ok", "already" (nothing to change), or "unknown" (no live worker has this name, and none is drained under it).
-- Publishes on `changed` if something changed.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found, changed = false, {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')) do
  if string.match(worker, '^(.*)/[^/]*$') == ARGV[1] then
    found = true
    if (redis.call('HEXISTS', KEYS[2], worker) == 1) ~= (ARGV[2] == 'drain') then
      changed[#changed + 1] = worker
    end
  end
end
-- A worker that is cut off may come back, and is drained then.
if not found and ARGV[2] == 'undrain' then
  for _, worker in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.match(worker, '^(.*)/[^/]*$') == ARGV[1] then
      found = true
      changed[#changed + 1] = worker
    end
  end
end
if not found then
  return 'unknown'
end
if #changed == 0 then
  return 'already'
end
-- Write the audit entry first: if that fails, nothing else is done.
redis.call('XDEL', KEYS[3], '0-1')  -- nothing; a full server refuses a script if its first write needs memory
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'who', ARGV[5], 'what', ARGV[6], 'detail', ARGV[7])
for _, worker in ipairs(changed) do
  if ARGV[2] == 'drain' then
    redis.call('HSET', KEYS[2], worker, now)
  else
    redis.call('HDEL', KEYS[2], worker)
  end
end
redis.call('PUBLISH', ARGV[3], '')
return 'ok'
