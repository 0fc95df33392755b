-- Read when the oldest message of each queue was sent, without transferring the messages, which may be megabytes.
--
-- KEYS  the queues (lists)
-- Returns for each queue the number in the header `sent_at` of its oldest message, as written there; "" if the queue is empty, has another
-- type, or its oldest message has no such header.
--
-- JSON escapes quotes inside strings, so the text `"sent_at"` can only be a name.

local found = {}
for number, queue in ipairs(KEYS) do
  local oldest = redis.pcall('LINDEX', queue, -1)
  local sent = ''
  if type(oldest) == 'string' then
    local at = string.find(oldest, '"sent_at"', 1, true)
    if at then
      sent = string.match(string.sub(oldest, at, at + 63), '^"sent_at"%s*:%s*([%d.eE+-]+)') or ''
    end
  end
  found[number] = sent
end
return found
