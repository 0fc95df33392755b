-- Read for which tasks some messages of a queue are: evenly spread ones, in a long queue of its 5,000 oldest and 5,000 newest, without
-- transferring the messages, which may be megabytes.
--
-- KEYS  1 queue (list)
-- ARGV  1 number of messages to read of each half of the queue
-- Returns {length, task, task, …}: the length of the queue, and the task of each message that was read, as the JSON of a string; "" if a
-- message has none. {0} if the queue has another type.
--
-- JSON escapes quotes inside strings, so the text `"task"` can only be a name, or a whole string that is a value.

local function task_of(raw)
  local at = 1
  while true do
    at = string.find(raw, '"task"', at, true)
    if not at then return '' end
    local found = string.match(string.sub(raw, at, at + 2047), '^"task"%s*:%s*("[^"]*")')
    if found then return found end
    at = at + 6
  end
end

local queue, many = KEYS[1], tonumber(ARGV[1])
local length = redis.pcall('LLEN', queue)
if type(length) ~= 'number' then return { 0 } end
local found = { length }
local old = math.min(math.ceil(length / 2), 5000)
local new = math.min(length - old, 5000)
for i = 0, math.min(many, old) - 1 do
  found[#found + 1] = task_of(redis.call('LINDEX', queue, -1 - math.floor(i * math.max(1, old / many))))
end
for i = 0, math.min(many, new) - 1 do
  found[#found + 1] = task_of(redis.call('LINDEX', queue, math.floor(i * math.max(1, new / many))))
end
return found
