-- Add what a worker measured to what the group has, unit by unit: nothing is lost when a unit changes hands in between.
--
-- KEYS  1 measurements (hash)
-- ARGV  unit, JSON, unit, JSON, … what was measured since the last call (tasks/model/measurements.py)
-- Returns nothing. What stands there and can't be read, or has other bounds, begins anew.

for at = 1, #ARGV, 2 do
  local ok, found = pcall(cjson.decode, redis.call('HGET', KEYS[1], ARGV[at]) or '{}')
  if not ok or type(found) ~= 'table' then found = {} end
  for name, value in pairs(cjson.decode(ARGV[at + 1])) do
    local old = found[name]
    if type(value) == 'number' then
      found[name] = (tonumber(old) or 0) + value
    elseif type(value) == 'table' and value.counts and type(old) == 'table' and type(old.counts) == 'table'
      and #old.counts == #value.counts then
      for number, count in ipairs(value.counts) do
        old.counts[number] = (tonumber(old.counts[number]) or 0) + count
      end
      old.total = (tonumber(old.total) or 0) + (value.total or 0)
    else
      found[name] = value
    end
  end
  redis.call('HSET', KEYS[1], ARGV[at], cjson.encode(found))
end
