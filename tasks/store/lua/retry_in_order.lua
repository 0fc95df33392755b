-- Put the messages of dead letters back in front of what waits for the same key or the same task, so that their order is kept. Removes
-- their ids from deduplication, so that they are not dropped as duplicates of themselves.
--
-- KEYS  1 dead (hash)  2 raw messages that are too long for their dead letter (hash)  3 queue (list)  4 parked (hash)
--       5 mailbox (list) of that key or line  6 meta (hash)  7 when parked keys are due (zset)
--       8… for each computation: young and old remembered ids (sets)
-- ARGV  1 the key or line; "": not known  2 channel `changed`, then for each dead letter, oldest first: its id, raw message,
--       the message's id as deduplication stores it, and the number of its computation's young ids in KEYS
-- Returns how many of the dead letters existed. Increases edit_version, so that a batch that a worker is running is refused.

local time = redis.call('TIME')
local target, record = KEYS[3], nil
local stored = ARGV[1] ~= '' and redis.call('HGET', KEYS[4], ARGV[1])
if stored then
  local ok, found = pcall(cjson.decode, stored)
  -- The first message of a mailbox with a dead letter in place must stay first.
  if ok and type(found) == 'table' and not found.dead_letter then target, record = KEYS[5], found end
end
local back = 0
for at = #ARGV - 3, 3, -4 do
  if redis.call('HEXISTS', KEYS[1], ARGV[at]) == 1 then
    -- The push comes first: if it fails because of a wrong type, the script ends and the dead letter is kept.
    redis.call('RPUSH', target, redis.call('HGET', KEYS[2], ARGV[at]) or ARGV[at + 1])
    redis.call('HDEL', KEYS[1], ARGV[at])
    redis.call('HDEL', KEYS[2], ARGV[at])
    local young = tonumber(ARGV[at + 3])
    redis.call('SREM', KEYS[young], ARGV[at + 2])
    redis.call('SREM', KEYS[young + 1], ARGV[at + 2])
    back = back + 1
  end
end
if back > 0 then
  if record then
    -- Due now, and with the whole waiting time before it.
    record.due, record.attempt, record.since = 0, 1, tonumber(time[1])
    redis.call('HSET', KEYS[4], ARGV[1], cjson.encode(record))
    redis.call('ZADD', KEYS[7], 0, ARGV[1])
  end
  redis.call('HINCRBY', KEYS[6], 'edit_version', 1)
  redis.call('PUBLISH', ARGV[2], '')
end
return back
