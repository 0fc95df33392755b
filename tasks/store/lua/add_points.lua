-- Add a point to the histories of a worker's partitions and computations, and store the worker's report.
--
-- KEYS  1 computations (hash)  2 workers (zset)  3 reports (hash)
--       then 7 of each partition: meta, queue, delayed, parked, dead, fine history, coarse history
--       then 2 of each computation: fine history, coarse history
-- ARGV  1 worker id  2 its report (JSON)  3 number of partitions  4 step of fine, s  5 points kept  6 step of coarse, s  7 points kept
--       then 2 of each partition: p50, p99, µs
--       then 3 of each computation: its name, p50, p99
-- Returns nothing. A history gets at most one point per step, however many workers write it. Points are described in tasks/store/history.py.
-- What has the wrong type counts as 0.

local time = redis.call('TIME')
local now = tonumber(time[1])
local steps, kept = { tonumber(ARGV[4]), tonumber(ARGV[6]) }, { ARGV[5], ARGV[7] }

local function count(...)
  local answer = redis.pcall(...)
  return type(answer) == 'number' and answer or 0
end

local function add(first_key, point)
  for i = 1, 2 do
    local key = KEYS[first_key + i - 1]
    local last = redis.pcall('LINDEX', key, 0)
    local at = type(last) == 'string' and tonumber(string.match(last, '^%d+')) or -1
    if not (type(last) == 'table') and math.floor(at / steps[i]) < math.floor(now / steps[i]) then
      redis.call('LPUSH', key, point)
      redis.call('LTRIM', key, 0, kept[i] - 1)
    end
  end
end

local function text(...)
  local words = { string.format('%.0f', now) }
  for i = 1, select('#', ...) do words[#words + 1] = string.format('%.0f', tonumber((select(i, ...))) or 0) end
  return table.concat(words, ' ')
end

-- A full server refuses a script if its first write needs memory, so begin with a deletion: reports of workers that are gone.
for _, worker in ipairs(redis.call('HKEYS', KEYS[3])) do
  if not redis.call('ZSCORE', KEYS[2], worker) then redis.call('HDEL', KEYS[3], worker) end
end
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then redis.call('HSET', KEYS[3], ARGV[1], ARGV[2]) end

local key, word = 4, 8
for _ = 1, tonumber(ARGV[3]) do
  local meta = redis.pcall('HMGET', KEYS[key], 'processed', 'forwarded', 'skipped', 'deduplicated', 'dead', 'failed', 'running')
  if meta.err then meta = {} end
  for i = 1, 7 do meta[i] = tonumber(meta[i] or '0') or 0 end
  local left = meta[1] + meta[2] + meta[3] + meta[4] + meta[5]
  local waiting = count('LLEN', KEYS[key + 1])
  local delayed = count('ZCARD', KEYS[key + 2])
  local parked = math.max(0, count('HLEN', KEYS[key + 3]) - meta[7])
  add(key + 5, text(left, meta[6], meta[5], waiting, delayed, parked, count('HLEN', KEYS[key + 4]), ARGV[word], ARGV[word + 1]))
  key, word = key + 7, word + 2
end
while word <= #ARGV do
  local ok, found = pcall(cjson.decode, redis.call('HGET', KEYS[1], ARGV[word]) or '{}')
  if not ok or type(found) ~= 'table' then found = {} end
  add(key, text(found.processed, found.failed, found.dead, 0, 0, 0, 0, ARGV[word + 1], ARGV[word + 2]))
  key, word = key + 2, word + 3
end
