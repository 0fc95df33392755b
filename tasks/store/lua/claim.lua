-- Claim a partition that `balance` has assigned, and get its fencing token. From then on commits with an earlier token are refused.
-- What a renamed computation has under its former name is renamed.
--
-- KEYS  1 meta (hash)  2… of each renamed computation: states (hash), young ids (set), old ids (set), buckets of its rate limit (zset) of
--       the former name, and the same of its name
-- ARGV  1 worker id  2 since: number of the assignment  3 number of messages to run in isolation if the last holder died (0: none)
--       4… field of meta with a computation's highest written version, the highest version that the worker can read, field, version, …, ""
--       and then of each renamed computation: former name, name, the highest version that the worker can read
-- Returns {status, token, edit_version, paused}, {"superseded", since}, or {"unreadable", field, version}
--   status   "ok", or "superseded": the partition was already claimed for a later assignment, with the number `since`. This worker was
--            slow, or the group's keys lost data. Nothing is written. Or "unreadable": newer code wrote states with this version, which the
--            worker cannot read, or renamed the computation ("renamed to …"). Nothing is written
--   paused   1 or 0
-- `balance` assigns a partition again only after its holder's lease has ended or the partition was released. So a claim for a later
-- assignment never takes the partition from a holder whose lease is valid.

local me, since, to_isolate = ARGV[1], ARGV[2], ARGV[3]
local found = redis.call('HMGET', KEYS[1], 'token', 'holder', 'since', 'edit_version', 'paused', 'takeovers')
local holder, last = found[2], found[3] or '0'
if tonumber(last) > tonumber(since) then
  return { 'superseded', last }
end

local first = 4
while ARGV[first] and ARGV[first] ~= '' do first = first + 2 end
first = first + 1
-- Whether `written` says that the states have a name now which a computation of the worker had before it was given this one (a roll back).
local function is_taken_back(written, field)
  for i = first, #ARGV, 3 do
    if written == 'renamed to ' .. ARGV[i] and field == 'version:' .. ARGV[i + 1] then return true end
  end
end
for i = 4, first - 2, 2 do
  local written = redis.call('HGET', KEYS[1], ARGV[i])
  if written and not (tonumber(written) and tonumber(written) <= tonumber(ARGV[i + 1])) and not is_taken_back(written, ARGV[i]) then
    return { 'unreadable', ARGV[i], written }
  end
end
for i = first, #ARGV, 3 do
  local written = tonumber(redis.call('HGET', KEYS[1], 'version:' .. ARGV[i]) or '1')
  if written and written > tonumber(ARGV[i + 2]) then
    return { 'unreadable', 'version:' .. ARGV[i], tostring(written) }
  end
end

-- A full server refuses a script if its first write needs memory, so begin with a deletion.
redis.call('HDEL', KEYS[1], '')
-- A holder that stops normally releases first. One that did not may have been killed by a message.
if holder and holder ~= me and to_isolate ~= '0' then
  redis.call('HSET', KEYS[1], 'to_isolate', to_isolate)
end
local time = redis.call('TIME')
if holder and holder ~= me then
  local times = { string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)) }
  for at in string.gmatch(found[6] or '', '%d+') do
    if #times < 10 then times[#times + 1] = at end
  end
  redis.call('HSET', KEYS[1], 'takeovers', table.concat(times, ' '))
end

-- Both exist if newer code ran before it said `formerly=`. A key that has a state under both names keeps the newer one; the older one stays
-- under the former name.
local function merge_states(from, to)
  local cursor = '0'
  repeat
    local page = redis.call('HSCAN', from, cursor, 'COUNT', 1000)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      if redis.call('HSETNX', to, page[2][i], page[2][i + 1]) == 1 then redis.call('HDEL', from, page[2][i]) end
    end
  until cursor == '0'
end
-- include merge_buckets

local number = 2
for i = first, #ARGV, 3 do
  local former, name = ARGV[i], ARGV[i + 1]
  for what = 0, 3 do
    local from, to = KEYS[number + what], KEYS[number + 4 + what]
    if redis.call('EXISTS', from) == 1 then
      if redis.call('EXISTS', to) == 0 then
        redis.call('RENAME', from, to)
      elseif what == 0 then
        merge_states(from, to)
      elseif what == 3 then
        merge_buckets(from, to)
      else
        redis.call('SUNIONSTORE', to, to, from)
        redis.call('DEL', from)
      end
    end
  end
  number = number + 8
  local before = redis.call('HMGET', KEYS[1], 'seen:' .. former, 'version:' .. former, 'version:' .. name)
  if before[1] then
    redis.call('HSETNX', KEYS[1], 'seen:' .. name, before[1])
    redis.call('HDEL', KEYS[1], 'seen:' .. former)
  end
  local highest = math.max(tonumber(before[2] or '1') or 1, tonumber(before[3] or '1') or 1)
  if highest > 1 then
    redis.call('HSET', KEYS[1], 'version:' .. name, highest)
  elseif before[3] then
    redis.call('HDEL', KEYS[1], 'version:' .. name)
  end
  -- Workers whose code has only the former name would begin with new states.
  redis.call('HSET', KEYS[1], 'version:' .. former, 'renamed to ' .. name)
end

-- From the clock, not a counter. A server that comes back empty, or with older data, could count to a token that it gave before, and a
-- worker that still has that token could write.
local before = tonumber(found[1] or '0')
local token = string.format('%.0f', math.max(before + 1, time[1] * 1000000 + time[2]))
redis.call('HSET', KEYS[1], 'token', token, 'holder', me, 'since', since)
return { 'ok', token, found[4] or '0', found[5] and 1 or 0 }
