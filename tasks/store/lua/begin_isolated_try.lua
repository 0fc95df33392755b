-- Note which messages are about to run, so that the next owner knows about them if this worker dies. The commit that finishes a message
-- removes its note. So a note with another token means that its worker died while it ran the message.
--
-- KEYS  1 meta (hash)  2 isolation (hash)
-- ARGV  1 token  2 largest group of messages without a history  3 largest group of messages over which one worker died (0: note none with a
--       history)  4… SHA-1 of each message, oldest first
-- Returns {status, count, before}
--   status  "ok", or "fenced": another owner has taken over; nothing is noted
--   count   number of messages noted, which run next: a group with the same history. Others with a history run alone
--   before  history of the first message: "<deaths>:<stalls>" (workers that died while they ran it, and leases that ended while it
--           stopped its whole process), or "hang:<why>" (it exceeded its time limit and could not be interrupted)

local token, largest, largest_again = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

if redis.call('HGET', KEYS[1], 'token') ~= token then
  return { 'fenced', 0, '0:0' }
end

local count, before, notes, deaths_before = 0, '0:0', {}, 0
for i = 4, #ARGV do
  local note = redis.call('HGET', KEYS[2], ARGV[i]) or ''
  local hang = string.sub(note, 1, 5) == 'hang:'
  local noted_by, deaths, stalls = string.match(note, '^([%d-]+):(%d+):(%d+)$')
  deaths, stalls = tonumber(deaths or 0), tonumber(stalls or 0)
  -- Token "-": no worker runs the message.
  if noted_by and noted_by ~= token and noted_by ~= '-' then deaths = deaths + 1 end
  local size = largest
  if hang or stalls > 0 or deaths > 1 then
    size = math.min(largest_again, 1)
  elseif deaths == 1 then
    size = largest_again
  end
  if count == 0 then
    before, deaths_before = hang and note or string.format('%d:%d', deaths, stalls), deaths
    largest = size
  end
  -- A group has one history.
  if count == largest or (count > 0 and (deaths ~= deaths_before or hang or stalls > 0)) then break end
  count = count + 1
  if not hang then
    notes[#notes + 1] = ARGV[i]
    notes[#notes + 1] = string.format('%s:%d:%d', token, deaths, stalls)
  end
end

-- A full server refuses a script if its first write needs memory. The message must run even then, so begin with a deletion.
redis.call('HDEL', KEYS[2], '')
for i = 1, #notes, 2 do
  redis.call('HSET', KEYS[2], notes[i], notes[i + 1])
end
return { 'ok', count, before }
