-- Give up leases, and with `leave` the place among the workers. A token grows with each release: what the worker still
-- had under way for the unit is refused from then on.
--
-- KEYS  1 workers (zset)  2 pins (hash)  3 owners (hash)  4 tokens (hash)  5 draining (hash)
-- ARGV  1 worker id  2 "leave" or ""  3 channel `changed`  4 what all keys of the group begin with  5… unit, token, unit, token, …
-- Returns how many leases were this worker's and are free now.
-- Publishes on `changed` when something was released, or the worker left.

local me, leave, released = ARGV[1], ARGV[2] == 'leave', 0
for i = 5, #ARGV, 2 do
  local unit, token = ARGV[i], ARGV[i + 1]
  if redis.call('HGET', KEYS[3], unit) == me and redis.call('HGET', KEYS[4], unit) == token then
    redis.call('HDEL', KEYS[3], unit)
    redis.call('HINCRBY', KEYS[4], unit, 1)
    -- What it had begun to run alone, it did not die over.
    local tries = '{' .. (unit == 'ingress' and ARGV[4] or ARGV[4] .. '.' .. unit) .. '}:tries'
    local notes = redis.call('HGETALL', tries)
    for j = 1, #notes, 2 do
      if string.sub(notes[j + 1], 1, #token + 1) == token .. ':' then redis.call('HDEL', tries, notes[j]) end
    end
    released = released + 1
  end
end
if leave then
  redis.call('ZREM', KEYS[1], me)
  redis.call('HDEL', KEYS[2], me)
  redis.call('HDEL', KEYS[5], me)
end
if released > 0 or leave then
  redis.call('PUBLISH', ARGV[3], me)
end
return released
