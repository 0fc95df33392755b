-- Add a worker's measurements to the group's, so that nothing is lost when a partition changes its owner.
--
-- KEYS  1 measurements (hash)  2 computations (hash), then the commits (list) of each partition
-- ARGV  1 number of commits kept per partition  2 number of computations, then for each: name, JSON of what was measured since the last call
--       (tasks/store/telemetry.py), then for each partition in the order of KEYS: partition, the same JSON, n, n times JSON of a commit,
--       oldest first (tasks/store/recent_commits.py)
-- Returns nothing. A stored value that can't be decoded, or has other bounds, is replaced.

local function add(key, field, fresh)
  local ok, found = pcall(cjson.decode, redis.call('HGET', key, field) or '{}')
  if not ok or type(found) ~= 'table' then found = {} end
  for name, value in pairs(cjson.decode(fresh)) do
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
  redis.call('HSET', key, field, cjson.encode(found))
end

local at = 3
for _ = 1, tonumber(ARGV[2]) do
  add(KEYS[2], ARGV[at], ARGV[at + 1])
  at = at + 2
end
for partition = 3, #KEYS do
  add(KEYS[1], ARGV[at], ARGV[at + 1])
  local commits = tonumber(ARGV[at + 2])
  for number = 1, commits do
    redis.call('LPUSH', KEYS[partition], ARGV[at + 2 + number])
  end
  if commits > 0 then redis.call('LTRIM', KEYS[partition], 0, ARGV[1] - 1) end
  at = at + 3 + commits
end
