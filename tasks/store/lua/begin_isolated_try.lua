-- Note which messages are about to run, so that the next owner knows about them if this worker dies. The commit that finishes a message
-- removes its note. So a note with another token means that its worker died while it ran the message.
--
-- KEYS  1 meta (hash)  2 isolation (hash)
-- ARGV  1 token  2 max_messages to note  3… SHA-1 of each message, oldest first
-- Returns {status, count, before}
--   status  "ok", or "fenced": another owner has taken over; nothing is noted
--   count   number of messages noted, which run next. A message with a history runs alone; others run as a group
--   before  history of the first message: "<deaths>:<stalls>" (workers that died while they ran it, and leases that ended while it
--           stopped its whole process), or "hang:<why>" (it exceeded its time limit and could not be interrupted)

local token, largest = ARGV[1], tonumber(ARGV[2])

if redis.call('HGET', KEYS[1], 'token') ~= token then
  return { 'fenced', 0, '0:0' }
end

local count, before, notes = 0, '0:0', {}
for i = 3, #ARGV do
  local note = redis.call('HGET', KEYS[2], ARGV[i]) or ''
  local hang = string.sub(note, 1, 5) == 'hang:'
  local noted_by, deaths, stalls = string.match(note, '^([%d-]+):(%d+):(%d+)$')
  deaths, stalls = tonumber(deaths or 0), tonumber(stalls or 0)
  -- Token "-": no worker runs the message.
  if noted_by and noted_by ~= token and noted_by ~= '-' then deaths = deaths + 1 end
  local alone = hang or deaths > 0 or stalls > 0
  if alone and count > 0 then break end
  count = count + 1
  if count == 1 then before = hang and note or string.format('%d:%d', deaths, stalls) end
  if not hang then
    notes[#notes + 1] = ARGV[i]
    notes[#notes + 1] = string.format('%s:%d:%d', token, deaths, stalls)
  end
  if alone or count == largest then break end
end

-- A full server refuses a script if its first write needs memory. The message must run even then, so begin with a deletion.
redis.call('HDEL', KEYS[2], '')
for i = 1, #notes, 2 do
  redis.call('HSET', KEYS[2], notes[i], notes[i + 1])
end
return { 'ok', count, before }
