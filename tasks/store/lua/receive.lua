-- Apply what another partition, on another server, has sent here: each entry once, in order.
--
-- KEYS  1 received (hash)  2… the keys of the commands
-- ARGV  1 source  2… entries, oldest first, each: tail of the entry before it, its own tail, number of words that follow, commands as in
--       ARGV of `commit` (tasks/store/outbox.py: a tail is <number>:<digest>). Also:
--         RAISE key field value       set a field of a hash, unless it has a higher number, or no number
--         LIVE key ms                 let a key live for at least so long
-- Returns {status, tail, key}
--   status  "ok"         all entries are applied, now or before
--           "gap"        an entry is missing between the last one applied and the first of these; those are not applied
--           "history"    the last one applied is not one of this source's: source or target has lost data; nothing of these is applied
--           "wrongtype"  `key` has the wrong type, or may not be accessed; that entry and those after it are not applied
--   tail    of the last entry that was applied

-- include result

local type_of = { LPUSH = 'list', RPUSH = 'list', HSET = 'hash', RAISE = 'hash', ZADD = 'zset', SADD = 'set', XADD = 'stream' }
local is_own = { REPLY = true, RAISE = true, LIVE = true }

local function number(tail) return tonumber(string.match(tail, '^%d+')) or 0 end

local source = ARGV[1]
local last = redis.call('HGET', KEYS[1], source) or ''
local i = 2
while i <= #ARGV do
  local before, tail, stop = ARGV[i], ARGV[i + 1], i + 2 + tonumber(ARGV[i + 2])
  if number(tail) == number(last) and tail ~= last then
    return { 'history', last, '' }
  end
  if number(tail) > number(last) then
    if before ~= last then
      return { number(before) == number(last) and 'history' or 'gap', last, '' }
    end
    -- Redis does not roll back a script that fails half-way. So check everything before the first write.
    local at, becomes = i + 3, {}
    while at <= stop do
      local words, command = tonumber(ARGV[at]), ARGV[at + 1]
      ARGV[at + 2] = KEYS[tonumber(ARGV[at + 2])]
      local key, wanted = ARGV[at + 2], type_of[command]
      if wanted then
        local found = redis.pcall('TYPE', key).ok
        if found == 'none' then found = becomes[key] or wanted end
        if found ~= wanted then return { 'wrongtype', last, key } end
        becomes[key] = wanted
      end
      if redis.acl_check_cmd and not is_own[command] and not redis.acl_check_cmd(unpack(ARGV, at + 1, at + math.min(words, 5))) then
        return { 'wrongtype', last, key }
      end
      at = at + words + 1
    end
    -- A full server refuses a script if its first write needs memory: here nothing is written yet.
    redis.call('HSET', KEYS[1], source, tail)
    at = i + 3
    while at <= stop do
      local words, command = tonumber(ARGV[at]), ARGV[at + 1]
      if command == 'REPLY' then
        store_result(ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
      elseif command == 'RAISE' then
        local there, new = redis.call('HGET', ARGV[at + 2], ARGV[at + 3]), tonumber(ARGV[at + 4])
        local old = tonumber(there or '')
        if not there or not new or (old and old < new) then redis.call('HSET', ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]) end
      elseif command == 'LIVE' then
        redis.call('PEXPIRE', ARGV[at + 2], math.max(tonumber(ARGV[at + 3]), redis.call('PTTL', ARGV[at + 2]), 1))
      else
        redis.call(unpack(ARGV, at + 1, at + words))
      end
      at = at + words + 1
    end
    last = tail
  end
  i = stop + 1
end
return { 'ok', last, '' }
