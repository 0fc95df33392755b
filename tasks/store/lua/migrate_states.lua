-- Replace states of one computation, those that are still what the operator's process read. Increases edit_version once: the next commit of
-- a worker that has them in memory is refused as stale, and the worker applies its messages to the new states.
--
-- KEYS  1 states (hash)  2 meta (hash)
-- ARGV  1 channel `changed`  2 field of meta with the highest version of these states  3 their version; 0: none
--       4… key, SHA-1 of the state that was read, new state, key, …
-- Returns {number, …}: which of the keys, from 0 on, have changed meanwhile. They are not written.
-- Publishes on `changed`, if it writes.

local changed, words = {}, {}
for i = 4, #ARGV, 3 do
  local now = redis.call('HGET', KEYS[1], ARGV[i])
  if now and redis.sha1hex(now) == ARGV[i + 1] then
    words[#words + 1] = ARGV[i]
    words[#words + 1] = ARGV[i + 2]
  else
    changed[#changed + 1] = (i - 4) / 3
  end
end
if #words > 0 then
  redis.call('HINCRBY', KEYS[2], 'edit_version', 1)
  -- The first states of newer code: the holder may be unable to read them, so it must claim the partition again.
  if tonumber(ARGV[3]) > (tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '1') or 1) then
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
    redis.call('HDEL', KEYS[2], 'holder')
    redis.call('HINCRBY', KEYS[2], 'token', 1)
  end
  redis.call('HSET', KEYS[1], unpack(words))
  redis.call('PUBLISH', ARGV[1], '')
end
return changed
