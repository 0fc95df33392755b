-- When the oldest message of each queue was sent, without sending the messages themselves, which may be of megabytes.
--
-- KEYS  the queues (lists)
-- Returns for each the number in its oldest message's header `sent_at`, as it is written there; "" where the queue is
-- empty, is no list, or its oldest message does not say.
--
-- Quotes inside a JSON string are escaped, so that `"sent_at"` is found where it is a name, and nowhere else.

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
