-- Push a source's messages to their queues and write its new position, both or neither.
--
-- KEYS  1 the source (hash)  2… the keys of the commands
-- ARGV  1 token of the lease; "": no lease (then the process's number is accepted if none is stored)
--       2 number of pushes so far, as the process knows it  3 position after this push
--       4 ms: with a lease, until it ends; without a lease, until the hash expires
--       5 "1": the source has ended
--       6… commands, each: its number of words, then the words: Redis command, the number of its key in KEYS, arguments
-- Returns {status, culprit}
--   "ok"         written; number has increased by one
--   "already"    this same push was written before, and its reply was lost; nothing is written again
--   "fenced"     another process has the lease; nothing is written
--   "moved"      number is different (the server went back to older data); nothing is written
--   "wrongtype"  a key of a command (culprit) has the wrong type, or may not be written; nothing is written

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

-- Redis does not roll back a script that fails half-way. So check everything before the first write.
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
