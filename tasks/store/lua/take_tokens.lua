-- Take a token from a bucket for each call that is about to start, or say when to ask again. By the server's clock, so that the limit holds
-- for all workers together, and through their crashes: a token is taken before its call starts.
--
-- KEYS  1 buckets (zset): bucket → when it is full again (µs); bucket and "\0line" → the time up to which its tokens are promised (µs)
-- ARGV  for each call: bucket, µs in which the bucket gets a token, burst: the maximum number of tokens, waited: 1 if the call comes at a time that it
--       was promised, else 0
-- Returns for each call: 0: it has a token; or when to ask again (µs since the epoch).
-- Calls that are refused get different times, one token apart. So those that wait for one bucket do not all come back at the same time.

-- A call that comes at its promised time may be early by this part of a token's time. So one late call does not delay all that follow.
local TOLERANCE = 0.5
-- Full buckets are forgotten after this time.
local FORGET_AFTER = 60 * 1000000

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - FORGET_AFTER))

local answers = {}
for i = 1, #ARGV, 4 do
  local bucket, interval, burst, waited = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3] == '1'
  local full = tonumber(redis.call('ZSCORE', KEYS[1], bucket) or 0)
  local line = tonumber(redis.call('ZSCORE', KEYS[1], bucket .. '\0line') or 0)
  -- When the bucket has a token, and whether one lies there unused although it was promised: its caller is gone, or late.
  local open = math.max(full, now) - (burst - 1 + TOLERANCE) * interval
  local unused = full + interval <= now
  if open <= now and (waited or line <= now or unused) then
    full = math.max(full, now) + interval
    redis.call('ZADD', KEYS[1], string.format('%.0f', full), bucket)
    if not waited then
      redis.call('ZADD', KEYS[1], string.format('%.0f', math.max(line, full - (burst - 1) * interval)), bucket .. '\0line')
    end
    answers[#answers + 1] = 0
  else
    local due = math.max(line, open, now)
    redis.call('ZADD', KEYS[1], string.format('%.0f', due + interval), bucket .. '\0line')
    answers[#answers + 1] = math.max(now + 1, math.ceil(due))
  end
end
return answers
