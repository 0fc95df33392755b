-- Note that a message is about to be run alone, and learn what came of it before. A note of an earlier lease means that its
-- worker ended over it: whoever finishes a message alone takes the note away in the commit.
--
-- KEYS  1 tokens (hash)  2 tries (hash)
-- ARGV  1 unit  2 token  3 SHA-1 of the message
-- Returns {status, before}
--   status  "ok", or "fenced": another owner has taken over; nothing is noted
--   before  how many workers ended over it, or "hang:<why>": it exceeded its time limit, and could not be interrupted

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return { 'fenced', '0' }
end
local before = redis.call('HGET', KEYS[2], ARGV[3]) or ''
if string.sub(before, 1, 5) == 'hang:' then
  return { 'ok', before }
end
local token, deaths = string.match(before, '^(%d+):(%d+)$')
if not token then
  deaths = 0
elseif token ~= ARGV[2] then
  deaths = deaths + 1
end
-- A server that is full refuses a script's first write, unless it is one that frees: a message must be run all the same.
redis.call('HDEL', KEYS[2], '')
redis.call('HSET', KEYS[2], ARGV[3], string.format('%s:%d', ARGV[2], deaths))
return { 'ok', string.format('%d', deaths) }
