-- forgive
-- Take back that a worker ended over messages: it lives, and had only lost its lease.
--
-- KEYS  1 tries (hash)
-- ARGV  1 token of the lease that was lost  2 "1" when the whole process had stood still meanwhile  3… SHA-1 of each message
-- Returns how many notes were changed.

local token, stalled, changed = ARGV[1], tonumber(ARGV[2]), 0
for i = 3, #ARGV do
  local note = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  local noted_by, deaths, stalls = string.match(note, '^([%d-]+):(%d+):(%d+)$')
  if noted_by then
    -- Where the next owner has the message already, it has counted a death.
    if noted_by == token then
      noted_by = '-'
    elseif tonumber(deaths) > 0 then
      deaths = deaths - 1
    end
    local after = string.format('%s:%d:%d', noted_by, deaths, stalls + stalled)
    if after == '-:0:0' then
      redis.call('HDEL', KEYS[1], ARGV[i])
    else
      redis.call('HSET', KEYS[1], ARGV[i], after)
    end
    if after ~= note then changed = changed + 1 end
  end
end
return changed
