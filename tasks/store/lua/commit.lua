-- The commit (laws 1, 2, 4): write everything a batch of messages did, or nothing, and return the next batch.
-- Without messages and commands it is the peek that begins a lease.
--
-- KEYS  1 queue (list), or during a resize the inbox  2 meta (hash)  3 delayed (zset)  4 source: the list that the messages came from, the queue or a key's mailbox
--       5 parked (hash)  6, 7, 8 the priority lists of the queue  9… the keys of the commands
-- ARGV  1 token  2 commit_number of the partition, as the worker knows it; "": not checked
--       3 edit_version of the partition, as the worker knows it; "": not checked
--       4 taken: number of messages to remove from the source  5 SHA-1 of the oldest of them  6 SHA-1 of the youngest
--       7 max_messages and 8 max_bytes: the limits of the next batch (at least one message; 0 messages: none)
--       9 max_due: how many due delayed messages may join the queue
--       10… commands, each: its number of words, then the words: Redis command, the number of its key in KEYS, arguments. Or a command of
--       this script, with its key by number too:
--         REPLY key value seconds     set a Celery result (expires after seconds; 0: never) and publish it, unless a success is stored
--         SHORTEN key count oldest youngest
--                                     remove the count oldest messages of a mailbox; oldest and youngest are the SHA-1 of the first and the
--                                     last of them. If they are others, the answer is "moved", and nothing is written
--         TIMELINE entries order ms longest most key change key change …
--                                     put the changes in front of their keys' timelines (hash entries; zset order: the last change of each), and
--                                     forget the keys that have not changed for longest: after ms, or if all are longer than `most` bytes (then
--                                     those that failed and wait come last).
--                                     A timeline has at most `longest` bytes
-- Returns {status, commit_number, edit_version, now, next due, paused, to_isolate, message, message, …}
--   status    "ok"        written; commit_number has increased by one
--             "already"   this same commit was written before, and its reply was lost; nothing is written again
--             "fenced"    another owner has taken over, or this worker has released; nothing is written
--             "moved"     the oldest messages of the source, or the commit_number, are not what the worker expects; nothing is written
--             "stale"     an operator changed something meanwhile; nothing is written
--             "wrongtype" the queue, or a key of a command, has the wrong type or may not be accessed (its name is in the place of
--                         edit_version); nothing is written
--   now         ms, server clock
--   next due    ms, when the next delayed message is due; -1: none
--   paused      1 if the partition is paused; then there are no messages
--   to_isolate  number of messages to run in isolation
--   messages    oldest first

-- include result
-- include timelines

local queue, source = KEYS[1], KEYS[4]
local token, commit_number, edit_version = ARGV[1], ARGV[2], ARGV[3]
local taken = tonumber(ARGV[4])
local max_messages, max_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local max_due, first_command = tonumber(ARGV[9]), 10

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local meta = redis.call('HMGET', KEYS[2], 'commit_number', 'edit_version', 'token', 'epoch')
local at, edits = meta[1] or '0', meta[2] or '0'

if meta[3] ~= token then
  return { 'fenced', at, edits, now, -1, 0, 0 }
end

local kind = redis.call('TYPE', queue).ok
if kind ~= 'list' and kind ~= 'none' then
  return { 'wrongtype', at, queue, now, -1, 0, 0 }
end

local status = 'ok'
if commit_number ~= '' and at ~= commit_number then
  if tonumber(at) == tonumber(commit_number) + 1 then
    status = 'already'
  else
    return { 'moved', at, edits, now, -1, 0, 0 }
  end
end

local writes = #ARGV >= first_command or taken > 0
if status == 'ok' and writes then
  if edit_version ~= '' and edits ~= edit_version then
    return { 'stale', at, edits, now, -1, 0, 0 }
  end
  if taken > 0 then
    local oldest, youngest = redis.call('LINDEX', source, -1), redis.call('LINDEX', source, -taken)
    if not oldest or not youngest or redis.sha1hex(oldest) ~= ARGV[5] or redis.sha1hex(youngest) ~= ARGV[6] then
      return { 'moved', at, edits, now, -1, 0, 0 }
    end
  end
  -- Redis does not roll back a script that fails half-way. So check everything before the first write.
  local type_of = {
    HSET = 'hash', HDEL = 'hash', HINCRBY = 'hash', LPUSH = 'list', RPUSH = 'list', ZADD = 'zset', ZREM = 'zset', SADD = 'set', XADD = 'stream',
    SHORTEN = 'list'
  }
  local key_words, i, becomes = { RENAME = 2, TIMELINE = 2 }, first_command, {}
  while i <= #ARGV do
    local words = tonumber(ARGV[i])
    for at = i + 2, i + 1 + (key_words[ARGV[i + 1]] or 1) do ARGV[at] = KEYS[tonumber(ARGV[at])] end
    local wanted = type_of[ARGV[i + 1]]
    if wanted then
      -- pcall: a key that this user may not access counts as one of the wrong type.
      local found = redis.pcall('TYPE', ARGV[i + 2]).ok
      if found == 'none' then found = becomes[ARGV[i + 2]] or wanted end
      if found ~= wanted then
        return { 'wrongtype', at, ARGV[i + 2], now, -1, 0, 0 }
      end
      becomes[ARGV[i + 2]] = wanted
    end
    -- Check the user's permission for the command too (possible since Redis 7). The first words are enough, because they contain the key.
    -- A failing REPLY or TIMELINE does no harm, so they are not checked.
    local command = ARGV[i + 1]
    if command == 'SHORTEN' then
      if redis.acl_check_cmd and not redis.acl_check_cmd('LTRIM', ARGV[i + 2], 0, -1) then
        return { 'wrongtype', at, ARGV[i + 2], now, -1, 0, 0 }
      end
      local oldest, youngest = redis.call('LINDEX', ARGV[i + 2], -1), redis.call('LINDEX', ARGV[i + 2], -ARGV[i + 3])
      if not oldest or not youngest or redis.sha1hex(oldest) ~= ARGV[i + 4] or redis.sha1hex(youngest) ~= ARGV[i + 5] then
        return { 'moved', at, edits, now, -1, 0, 0 }
      end
    elseif redis.acl_check_cmd and command ~= 'REPLY' and command ~= 'TIMELINE'
      and not redis.acl_check_cmd(unpack(ARGV, i + 1, i + math.min(words, 5))) then
      return { 'wrongtype', at, ARGV[i + 2], now, -1, 0, 0 }
    end
    i = i + words + 1
  end

  if taken > 0 then
    redis.call('LTRIM', source, 0, -taken - 1)
  end
  local removed = source == queue and taken or 0
  i = first_command
  while i <= #ARGV do
    local words = tonumber(ARGV[i])
    local command = ARGV[i + 1]
    if command == 'RPUSH' and string.sub(ARGV[i + 2], -7) ~= ':outbox' then removed = removed - words + 2 end
    if command == 'REPLY' then
      store_result(ARGV[i + 2], ARGV[i + 3], ARGV[i + 4])
    elseif command == 'SHORTEN' then
      redis.call('LTRIM', ARGV[i + 2], 0, -ARGV[i + 3] - 1)
    elseif command == 'TIMELINE' then
      pcall(add_to_timelines, i + 2, i + words, now)
    -- The key to rename may have expired since the worker read it.
    elseif command ~= 'RENAME' or redis.call('EXISTS', ARGV[i + 2]) == 1 then
      redis.call(unpack(ARGV, i + 1, i + words))
    end
    i = i + words + 1
  end
  at = tostring(redis.call('HINCRBY', KEYS[2], 'commit_number', 1))
  if meta[4] and removed ~= 0 then redis.call('HINCRBY', KEYS[2], 'removed', removed) end
elseif status == 'ok' and commit_number == '' then
  at = tostring(tonumber(at))
end

-- The message of a timer that is due. `alarm`: "@", the JSON of its task, a newline, the JSON of its key. The body is `[[],{},{}]`.
local function firing(alarm, due)
  local task, key = string.match(alarm, '^@(.-)\n(.*)$')
  local id = string.sub(redis.sha1hex(alarm), 1, 16) .. '-' .. due
  return '{"body":"W1tdLHt9LHt9XQ==","content-encoding":"utf-8","content-type":"application/json","headers":{"lang":"py","task":' .. task
    .. ',"ignore_result":true,"origin":"timer","parent_id":null,"partition_key":' .. key .. ',"id":"' .. id .. '","root_id":"' .. id
    .. '"},"properties":{"correlation_id":"' .. id .. '","delivery_mode":2,"delivery_info":{"exchange":"","routing_key":""},"priority":0,'
    .. '"body_encoding":"base64","delivery_tag":"' .. id .. '"}}'
end

-- Move due delayed messages, and messages with a priority, to the end of the queue. pcall: the commit is written already, and a key of
-- the wrong type must not lose its answer.
local next_due = -1
local first = redis.pcall('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if first[1] then
  if tonumber(first[2]) <= now then
    local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, max_due, 'WITHSCORES')
    for from = 1, #due, 1000 do
      local entries, raws = {}, {}
      for i = from, math.min(from + 999, #due), 2 do
        local entry = due[i]
        entries[#entries + 1] = entry
        raws[#raws + 1] = string.byte(entry) == 64 and firing(entry, due[i + 1])  -- "@"
          or string.sub(entry, string.find(entry, ':', 1, true) + 1)
      end
      -- The removal comes first, because a full server refuses a script if its first write needs memory.
      redis.call('ZREM', KEYS[3], unpack(entries))
      redis.call('LPUSH', queue, unpack(raws))
    end
    first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  end
  if first[1] then next_due = tonumber(first[2]) end
end
local moves = 0  -- bounded, because a script blocks the whole server
for i = 6, 8 do
  while moves < 1000 and type(redis.pcall('LMOVE', KEYS[i], queue, 'RIGHT', 'LEFT')) == 'string' do moves = moves + 1 end
end

meta = redis.call('HMGET', KEYS[2], 'paused', 'to_isolate')
local paused = meta[1] ~= false
local reply = { status, at, edits, now, next_due, paused and 1 or 0, tonumber(meta[2] or '0') or 0 }
if max_messages > 0 and not paused then
  -- Read in chunks, from the oldest on, so that huge messages are not all read.
  local from, chunk, bytes, count = 0, 16, 0, 0
  while count < max_messages do
    chunk = math.min(chunk, max_messages - count)
    local part = redis.call('LRANGE', queue, -from - chunk, -from - 1)
    if #part == 0 then break end
    for i = #part, 1, -1 do
      bytes = bytes + #part[i]
      if count > 0 and bytes > max_bytes then
        return reply
      end
      count = count + 1
      reply[7 + count] = part[i]
    end
    if #part < chunk then break end
    from = from + chunk
    chunk = math.min(chunk * 8, 2048)
  end
  -- The queue is empty and no key is parked. So the message that killed a worker is gone, because it was first in the queue or a mailbox.
  if count == 0 and reply[7] > 0 and redis.call('EXISTS', KEYS[5]) == 0 then
    redis.call('HDEL', KEYS[2], 'to_isolate')
    reply[7] = 0
  end
end
return reply
