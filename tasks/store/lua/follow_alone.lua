-- As `follow_topology`, where partitions are on several servers: note that a partition follows the topology of an epoch, or that its keys for
-- others have arrived. Its holder has checked before that everything it sent has arrived.
--
-- KEYS  1 meta (hash)  2 queue (list)  3 inbox (list)
-- ARGV  1 token  2 epoch  3 "epoch": it follows, "moved", or "returned": an undone resize has brought all its keys back
--       4 "wait" if it follows and gets keys: what an earlier resize has left in its inbox goes back to the front of the queue, because a
--         misrouted message there may follow an older one of its key that was forwarded. Else "". If they are back, the messages in its
--         queue go behind those in its inbox: they are older than what others still send back
-- Returns "ok", or "fenced": another worker has the lease; nothing is written.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 'fenced'
end
if tonumber(redis.call('HGET', KEYS[1], ARGV[3]) or '0') < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[3], ARGV[2])
  redis.call('HINCRBY', KEYS[1], 'commit_number', 1)
  if ARGV[3] == 'moved' then redis.call('HDEL', KEYS[1], 'running') end
  if ARGV[3] == 'returned' then
    while redis.call('LMOVE', KEYS[2], KEYS[3], 'RIGHT', 'LEFT') do end
  end
  if ARGV[4] == 'wait' then
    while redis.call('LMOVE', KEYS[3], KEYS[2], 'LEFT', 'RIGHT') do end
  end
end
return 'ok'
