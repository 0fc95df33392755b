-- Finish a resize: all keys have moved, no producer sends for the former number of partitions any more, and what was sent has passed.
--
-- KEYS  1 group (hash)  2 audit (stream)  3… for each partition: meta (hash), queue (list), inbox (list), the priority lists of the queue
-- ARGV  1 epoch  2 "": look whether nothing was passed on for some time; else an id: an operator says that no producer sends any more
--       3 that time, ms; for an operator: how long our own producers may take until they know that the keys have moved  4 channel `changed`  5 number of audit records to keep, approximately  6 who  7 what  8 details (JSON)
-- Returns {"ok"}; {"changed"}: no such resize is in progress; {"moving", n}: keys of the n-th partition have not moved; {"busy", ms}: a message for
-- the former number was passed on, or the resize began, so long ago; or {"passing", n}: the n-th partition may still have such messages.
-- When nothing else is in the way, each partition's messages are counted (`mark`). Once that number was taken, all that is left is younger.

local found = redis.call('HMGET', KEYS[1], 'epoch', 'former', 'resized', 'mark', 'settled', 'back')
if found[1] ~= ARGV[1] or not found[2] then
  return { 'changed' }
end
-- Of a resize that undoes another: since it began, because producers may have known the other number until then.
local settled = tonumber(found[5] or (found[6] and found[3]) or '0')
local last = math.max(tonumber(found[3] or '0'), settled)
for i = 3, #KEYS, 6 do
  local meta = redis.call('HMGET', KEYS[i], 'moved', 'passed_on')
  if tonumber(meta[1] or '0') < tonumber(ARGV[1]) then
    return { 'moving', (i - 3) / 6 }
  end
  last = math.max(last, tonumber(meta[2] or '0'))
end
local mark, time = ARGV[2], redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if mark == '' then
  if now - last < tonumber(ARGV[3]) then
    return { 'busy', now - last }
  end
  mark = string.format('%.0f', last)
elseif now - settled < tonumber(ARGV[3]) then
  return { 'passing', 0 }
end

local is_new, passing = found[4] ~= mark, nil
if is_new then redis.call('HSET', KEYS[1], 'mark', mark) end
for i = 3, #KEYS, 6 do
  local meta, left = redis.call('HMGET', KEYS[i], 'removed', 'mark'), 0
  for list = i + 1, i + 5 do left = left + redis.call('LLEN', KEYS[list]) end
  local removed = tonumber(meta[1] or '0')
  if is_new then
    meta[2] = removed + left
    redis.call('HSET', KEYS[i], 'mark', string.format('%.0f', meta[2]))
  end
  if left > 0 and removed < tonumber(meta[2] or '0') then passing = passing or (i - 3) / 6 end
end
if passing then
  return { 'passing', passing }
end
redis.call('HDEL', KEYS[1], 'former', 'back', 'mark', 'moving')
if ARGV[5] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'who', ARGV[6], 'what', ARGV[7], 'detail', ARGV[8])
end
redis.call('PUBLISH', ARGV[4], '')
return { 'ok' }
