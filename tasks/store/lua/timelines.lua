-- Not a script: included in commit.lua. KEYS[2] is the partition's meta.
-- TIMELINE: ARGV[at] to ARGV[last] are its words. Called with pcall: a key of the wrong type must not end the commit half-way.
-- In the zset `order`, a key that failed and waits comes after all others: busy keys push each other out before it.
local STUCK = 2 ^ 42

-- JSON escapes quotes inside strings, so this text can only be a field of the change.
local function is_stuck(change)
  for _, why in ipairs({ 'hold', 'retry', 'unknown-task', 'unreadable-state' }) do
    if string.find(change, '"why":"' .. why .. '"', 1, true) then return true end
  end
end

local function add_to_timelines(at, last, now)
  local entries, order, ms, longest, most = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local bytes = redis.call('EXISTS', entries) == 1 and tonumber(redis.call('HGET', KEYS[2], 'timeline_bytes') or '0') or 0
  local function forget(key)
    bytes = bytes - redis.call('HSTRLEN', entries, key)
    redis.call('HDEL', entries, key)
  end
  for i = at + 5, last, 2 do
    local before = redis.call('HGET', entries, ARGV[i]) or ''
    local after = string.sub(ARGV[i + 1] .. '\n' .. before, 1, longest)
    redis.call('ZADD', order, is_stuck(ARGV[i + 1]) and STUCK + now or now, ARGV[i])
    redis.call('HSET', entries, ARGV[i], after)
    bytes = bytes + #after - #before
  end
  for _, first in ipairs({ 0, STUCK }) do
    for _, key in ipairs(redis.call('ZRANGEBYSCORE', order, first, first + now - ms, 'LIMIT', 0, 1000)) do
      redis.call('ZREM', order, key)
      forget(key)
    end
  end
  while bytes > most do
    local oldest = redis.call('ZPOPMIN', order)[1]
    if not oldest then break end
    forget(oldest)
  end
  redis.call('PEXPIRE', entries, ms)
  redis.call('PEXPIRE', order, ms)
  redis.call('HSET', KEYS[2], 'timeline_bytes', bytes)
end
