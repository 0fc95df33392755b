-- Begin a resize, or the resize back that an abort is.
--
-- KEYS  1 group (hash)  2 workers (zset)  3 epochs (hash)  4 audit (stream)
--       5… for some partitions: meta (hash), queue (list), inbox (list), the priority lists of the queue
-- ARGV  1 epoch of the topology that the caller knows  2 the new number of partitions  3 the number until now  4 the highest number ever
--       5 layout of a group that was resized  6 channel `changed`
--       7 "back" if it undoes a resize that is not finished, else ""; "while moving": the same, unless all keys have moved
--       8 for each partition in KEYS a letter: "g" it gets keys. If the resize undoes another: "l" before a "g": this one loses its keys to it;
--         "f" instead of "g": it had lost its keys, and gets them back
--       9 number of audit records to keep, approximately  10 who  11 what  12 details (JSON)  13 how many partitions must move their keys
-- Returns {"ok", epoch}; {"changed", epoch}: the topology is another by now; or {"old", worker}: a living worker runs a release that cannot
-- follow; or {"late"}: partitions that get back their keys have lost some already. Nothing is written then.
-- A partition that gets keys waits with every message in its queue until its sources have passed on what they have now (`admit`), also with those
-- that are there already: a misrouted one among them may follow an older one of its key that was forwarded to its former partition. What an earlier
-- resize has left in the inbox goes back to the front of the queue. The holder gets a new token: until it knows the new topology, it must not take a
-- message from the queue.
-- Where partitions are on several servers, KEYS has none: they follow one after another (tasks/store/resize_apart.py).
-- If a resize is undone, what was passed on is older than what was not, and both are older than what the sources have of these keys. So they go
-- into the inbox, where the partition works on them first.

local function now_in_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local found = redis.call('HGET', KEYS[1], 'epoch') or '0'
if found ~= ARGV[1] then
  return { 'changed', found }
end
if ARGV[7] == 'while moving' and redis.call('HEXISTS', KEYS[1], 'moving') == 0 then
  return { 'late' }
end
local now = now_in_ms()
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], now, '+inf')) do
  if redis.call('HEXISTS', KEYS[3], worker) == 0 then
    return { 'old', worker }
  end
end
for i = 5, #KEYS, 6 do
  if string.sub(ARGV[8], (i + 1) / 6, (i + 1) / 6) == 'f' and tonumber(redis.call('HGET', KEYS[i], 'epoch') or '0') >= tonumber(found) then
    return { 'late' }
  end
end
-- Put a list's messages in front of another's, or behind them.
local function move(from, to, in_front)
  if redis.call('EXISTS', to) == 0 and redis.call('EXISTS', from) == 1 then redis.call('RENAME', from, to) end
  while redis.call('LMOVE', from, to, in_front and 'LEFT' or 'RIGHT', in_front and 'RIGHT' or 'LEFT') do end
end
local older = {}
for i = 5, #KEYS, 6 do
  if string.sub(ARGV[8], (i + 1) / 6, (i + 1) / 6) == 'l' then
    older[#older + 1] = i + 2
  else
    if ARGV[7] == '' then
      move(KEYS[i + 2], KEYS[i + 1], true)
    else
      for _, from in ipairs({ i + 1, i + 3, i + 4, i + 5 }) do older[#older + 1] = from end
      for _, from in ipairs(older) do move(KEYS[from], KEYS[i + 2]) end
      older = {}
    end
  end
  if redis.call('HEXISTS', KEYS[i], 'token') == 1 then redis.call('HINCRBY', KEYS[i], 'token', 1) end
end
local epoch = string.format('%.0f', tonumber(found) + 1)
redis.call('HSET', KEYS[1], 'layout', ARGV[5], 'epoch', epoch, 'partitions', ARGV[2], 'former', ARGV[3], 'highest', ARGV[4],
  'resized', string.format('%.0f', now))
redis.call('HDEL', KEYS[1], 'settled')
if ARGV[7] ~= '' then
  redis.call('HSET', KEYS[1], 'back', 1)
  redis.call('HDEL', KEYS[1], 'moving')
else
  redis.call('HSET', KEYS[1], 'moving', ARGV[13])
  redis.call('HDEL', KEYS[1], 'back')
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[9], '*', 'who', ARGV[10], 'what', ARGV[11], 'detail', ARGV[12])
redis.call('PUBLISH', ARGV[6], '')
return { 'ok', epoch }
