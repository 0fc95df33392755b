-- Renew a worker's membership and leases, assign free partitions to it, and report what it must release.
-- Workers' shares differ by at most one partition, also with the ingress counted. Partitions move only if that is needed.
-- An assignment is advice: a worker holds a partition only after `claim`, on the partition's own keys, has given it a fencing token.
--
-- KEYS  1 workers (zset)  2 pins (hash)  3 owners (hash)  4 since (hash)  5 policies (hash)  6 draining (hash)
-- ARGV  1 worker id  2 lease, ms  3 pins of this worker ("" none, "2,5")  4 N  5 channel `changed`
-- Returns {next, assigned, give_up, policies}
--   next      ms until the first lease of another worker ends, -1 if there is no other
--   assigned  {partition, since, partition, …} the partitions this worker must hold; since: the assignment's number, always increasing
--   give_up   {partition, …} those of `assigned` that it must release
--   policies  {computation, JSON, …} operators' changes
-- Publishes on `changed` if a worker joined or was found dead. The policies are read with pcall, so that a key of the wrong type under
-- their name does not keep a worker from its share.

local me, lease, my_pins, n, channel = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local changed = false

-- A full server refuses a script if its first write needs memory. Leases must be renewed even then, so begin with a deletion.
redis.call('ZREM', KEYS[1], '')

for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)) do
  if dead ~= me then
    redis.call('ZREM', KEYS[1], dead)
    redis.call('HDEL', KEYS[2], dead)
    redis.call('HDEL', KEYS[6], dead)
    changed = true
  end
end
if redis.call('ZADD', KEYS[1], now + lease, me) == 1 then
  changed = true
end
if my_pins ~= '' then
  redis.call('HSET', KEYS[2], me, my_pins)
end

-- Which workers live, and which of them are pinned to which partition.
local alive, general, pinned_to, draining = {}, {}, {}, false
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local next_end = -1
for i = 1, #members, 2 do
  local worker = members[i]
  alive[worker] = true
  if worker ~= me then
    local left = tonumber(members[i + 1]) - now
    if next_end < 0 or left < next_end then next_end = left end
  end
  local pins = redis.call('HGET', KEYS[2], worker)
  if redis.call('HEXISTS', KEYS[6], worker) == 1 then
    -- An operator drains this worker: it gets no share, and gives up below what it holds.
    if worker == me then draining = true end
  elseif pins then
    for partition in string.gmatch(pins, '[^,]+') do
      pinned_to[partition] = pinned_to[partition] or {}
      pinned_to[partition][worker] = true
    end
  else
    general[#general + 1] = worker
  end
end

local owner = {}
local held = redis.call('HGETALL', KEYS[3])
for i = 1, #held, 2 do
  if alive[held[i + 1]] then owner[held[i]] = held[i + 1] end
end

local function assign(partition)
  -- From the clock, so that a server that comes back with older data does not give the same number twice.
  local last = tonumber(redis.call('HGET', KEYS[4], partition) or '0')
  redis.call('HSET', KEYS[4], partition, string.format('%.0f', math.max(last + 1, micros)))
  redis.call('HSET', KEYS[3], partition, me)
  owner[partition] = me
end

local give_up = {}

-- A pinned partition goes to the first worker that is pinned to it.
local shared, is_general = {}, my_pins == '' and not draining
for number = 0, n - 1 do
  local partition = tostring(number)
  local wanted = pinned_to[partition]
  if not wanted then
    shared[#shared + 1] = partition
  elseif wanted[me] then
    if not owner[partition] then assign(partition) end
  end
  if owner[partition] == me and ((wanted and not wanted[me]) or (not wanted and not is_general)) then
    give_up[#give_up + 1] = partition
  end
end

if is_general and #general > 0 then
  local holds = {}
  for _, worker in ipairs(general) do holds[worker] = 0 end
  for _, partition in ipairs(shared) do
    local worker = owner[partition]
    if worker and holds[worker] then holds[worker] = holds[worker] + 1 end
  end
  -- The workers that hold the most get one more than the base; the ingress's holder comes last.
  local base, extra = math.floor(#shared / #general), #shared % #general
  table.sort(general, function(a, b)
    if holds[a] ~= holds[b] then return holds[a] > holds[b] end
    local ia, ib = owner.ingress == a, owner.ingress == b
    if ia ~= ib then return ib end
    return a < b
  end)
  local target = {}
  for place, worker in ipairs(general) do
    target[worker] = base + (place <= extra and 1 or 0)
  end
  local mine, share = holds[me], target[me]
  for i = #shared, 1, -1 do
    if mine > share and owner[shared[i]] == me then
      give_up[#give_up + 1] = shared[i]
      mine = mine - 1
    end
  end
  for _, partition in ipairs(shared) do
    if mine < share and not owner[partition] then
      assign(partition)
      mine = mine + 1
    end
  end
  -- The ingress goes to a worker with the smallest share.
  local light = share == base
  if not owner.ingress then
    if light then assign('ingress') end
  elseif owner.ingress == me and not light then
    give_up[#give_up + 1] = 'ingress'
  end
elseif owner.ingress == me then
  give_up[#give_up + 1] = 'ingress'
end

local assigned = {}
for partition, worker in pairs(owner) do
  if worker == me then
    assigned[#assigned + 1] = partition
    assigned[#assigned + 1] = redis.call('HGET', KEYS[4], partition)
  end
end
if changed then
  redis.call('PUBLISH', channel, me)
end
local policies = redis.pcall('HGETALL', KEYS[5])
return { next_end, assigned, give_up, policies.err and {} or policies }
