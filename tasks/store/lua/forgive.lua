-- Undo the suspicion that a worker died while it ran these messages: it is alive and only lost its lease.
--
-- KEYS  1 isolation (hash)
-- ARGV  1 token of the lost lease  2 "1" if the whole process had stopped meanwhile  3… SHA-1 of each message
-- Returns the number of notes that changed.

local token, stalled, changed = ARGV[1], tonumber(ARGV[2]), 0
for i = 3, #ARGV do
  local note = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  local noted_by, deaths, stalls = string.match(note, '^([%d-]+):(%d+):(%d+)$')
  if noted_by then
    -- If the next owner has noted the message already, it has counted a death.
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
