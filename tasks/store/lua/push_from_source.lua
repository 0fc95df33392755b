-- What a source has read goes to its queues, and how far it is is written, or nothing of both.
--
-- KEYS  1 the source (hash)  2… what the commands touch
-- ARGV  1 token of the lease; "" where there is none (then a number that is not known here is taken as it is)
--       2 number: how many pushes the source has had, as the process knows it  3 position after this one
--       4 lease, ms, from now on; without a lease: after so long the hash is forgotten
--       5 "1": nothing more will come
--       6… commands, each: how many words, then the words (Redis command, the number of its key in KEYS, arguments)
-- Returns {status, culprit}
--   "ok"         written; number is one more
--   "already"    this very push was written before: its reply was lost; nothing is written again
--   "fenced"     another process has the lease; nothing is written
--   "moved"      number is another (the server went back to older data); nothing is written
--   "wrongtype"  a key (culprit) that a command is to write holds another type, or may not be written; nothing is written

local token, number, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local facts = redis.call('HMGET', KEYS[1], 'token', 'number')
local at = tonumber(facts[2] or '0')

if token ~= '' and facts[1] ~= token then
  return { 'fenced', '' }
end
if at == number + 1 then
  return { 'already', '' }
end
if token ~= '' and at ~= number then
  return { 'moved', '' }
end

-- A script is not undone when it fails half-way: look before writing.
local type_of = { HSET = 'hash', HINCRBY = 'hash', LPUSH = 'list', XACK = 'stream' }
local i = 6
while i <= #ARGV do
  ARGV[i + 2] = KEYS[tonumber(ARGV[i + 2])]
  local wanted = type_of[ARGV[i + 1]]
  local found = redis.call('TYPE', ARGV[i + 2]).ok
  if wanted and found ~= wanted and found ~= 'none' then
    return { 'wrongtype', ARGV[i + 2] }
  end
  local words = tonumber(ARGV[i])
  if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(ARGV, i + 1, i + math.min(words, 5))) then
    return { 'wrongtype', ARGV[i + 2] }
  end
  i = i + words + 1
end

redis.call('HSET', KEYS[1], 'number', string.format('%.0f', number + 1), 'position', ARGV[3])
if token == '' then
  redis.call('PEXPIRE', KEYS[1], lease)
else
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('HSET', KEYS[1], 'until', string.format('%.0f', now + lease))
end
if ARGV[5] == '1' then
  redis.call('HSET', KEYS[1], 'ended', 1)
end
i = 6
while i <= #ARGV do
  local words = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + words))
  i = i + words + 1
end
return { 'ok', '' }
