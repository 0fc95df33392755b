-- Read what partitions hold, without transferring their messages, which may be megabytes.
--
-- KEYS  of each partition: its queue, 3 lists of messages with a priority, inbox, delayed (zset), parked, dead, meta (hashes), and the hash of
--       states of each computation
-- ARGV  1 number of computations  2… fields of meta
-- Returns for each partition {messages waiting, delayed, parked keys, dead letters, keys with a state, sent, fields of meta …}. `sent`: the number
-- in the header `sent_at` of its oldest message, as written there; "" if it has no message, or the message has no such header. What has the wrong
-- type counts as 0.
--
-- JSON escapes quotes inside strings, so the text `"sent_at"` can only be a name.

local function count(...)
  local answer = redis.pcall(...)
  return type(answer) == 'number' and answer or 0
end

local function sent(list)
  local oldest = redis.pcall('LINDEX', list, -1)
  if type(oldest) ~= 'string' then return '' end
  local at = string.find(oldest, '"sent_at"', 1, true)
  return at and string.match(string.sub(oldest, at, at + 63), '^"sent_at"%s*:%s*([%d.eE+-]+)') or ''
end

local found, width = {}, 9 + tonumber(ARGV[1])
for first = 1, #KEYS, width do
  local queue, inbox, meta_key = KEYS[first], KEYS[first + 4], KEYS[first + 8]
  local waiting, delayed, parked, dead, keys, at = count('LLEN', queue), 0, 0, 0, 0, ''
  -- One call instead of seven for a partition that has only a queue.
  if redis.call('EXISTS', unpack(KEYS, first + 1, first + 7)) > 0 then
    for i = first + 1, first + 4 do waiting = waiting + count('LLEN', KEYS[i]) end
    delayed, parked, dead = count('ZCARD', KEYS[first + 5]), count('HLEN', KEYS[first + 6]), count('HLEN', KEYS[first + 7])
    at = sent(inbox)
  end
  if waiting > 0 and at == '' then at = sent(queue) end
  for i = first + 9, first + width - 1 do keys = keys + count('HLEN', KEYS[i]) end
  local row = { waiting, delayed, parked, dead, keys, at }
  local meta = redis.pcall('HMGET', meta_key, unpack(ARGV, 2))
  for i = 2, #ARGV do row[#row + 1] = not meta.err and meta[i - 1] end
  found[#found + 1] = row
end
return found
