-- Note that a partition follows the group's topology: it applies no message by an older one any more; or that its keys for others have left.
--
-- KEYS  1 meta (hash)  2 group (hash)
-- ARGV  1 token  2 epoch  3 "epoch": it follows, or "moved": its keys have left  4 channel `changed`  5 1 if it may have had keys, else 0
-- Returns "ok"; "fenced": another worker has the lease; or "changed": the group's topology is another by now. Nothing is written then.
-- The commit number increases, so that a server that comes back with data from before is noticed as after a lost commit.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 'fenced'
end
if redis.call('HGET', KEYS[2], 'epoch') ~= ARGV[2] then
  return 'changed'
end
if tonumber(redis.call('HGET', KEYS[1], ARGV[3]) or '0') < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[3], ARGV[2])
  redis.call('HINCRBY', KEYS[1], 'commit_number', 1)
  if ARGV[3] == 'moved' then
    redis.call('HDEL', KEYS[1], 'running')
    if ARGV[5] == '1' and redis.call('HEXISTS', KEYS[2], 'moving') == 1 and redis.call('HINCRBY', KEYS[2], 'moving', -1) < 1 then
      local time = redis.call('TIME')
      redis.call('HDEL', KEYS[2], 'moving')
      redis.call('HSET', KEYS[2], 'settled', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
    end
    redis.call('PUBLISH', ARGV[4], '')
  end
end
return 'ok'
