-- The heads of some records: what shows the versions of states, without the states.
--
-- KEYS  states (hash) of a computation in a partition, any number in one slot
-- ARGV  1 number of records in each
-- Returns {{length, head, …}, …}: for each key, how many records it has, then the first byte of each, or the whole header if there is one

local answer = {}
for number, key in ipairs(KEYS) do
  local length = redis.pcall('HLEN', key)
  local heads = {type(length) == 'number' and length or 0}
  local fields = redis.pcall('HRANDFIELD', key, ARGV[1])
  for _, field in ipairs(fields.err and {} or fields) do
    local record = redis.call('HGET', key, field)
    local length = 1
    if #record > 5 and string.byte(record, 1) >= 128 then
      local a, b, c, d = string.byte(record, 2, 5)
      length = math.min(5 + ((a * 256 + b) * 256 + c) * 256 + d, 65536)
    end
    heads[#heads + 1] = string.sub(record, 1, length)
  end
  answer[number] = heads
end
return answer
