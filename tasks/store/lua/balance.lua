-- Renew a worker's membership and leases, assign free partitions to it, and report what it must release.
-- Workers' shares differ by at most one partition, also with the ingress counted. Partitions move only if that is needed.
-- A partition with messages of a task that its holder does not know goes to a worker that knows it, and stays with such workers for a while.
-- An assignment is advice: a worker holds a partition only after `claim`, on the partition's own keys, has given it a fencing token.
--
-- KEYS  1 workers (zset)  2 pins (hash)  3 owners (hash)  4 since (hash)  5 policies (hash)  6 draining (hash)
--       7 tasks (hash)  8 wanted (hash)  9 reads (hash)  10 refused (hash)  11 group (hash)
-- ARGV  1 worker id  2 lease, ms  3 pins of this worker ("" none, "2,5")  4 N, if the group does not exist  5 channel `changed`
--       6 the tasks that this worker knows, each between two newlines  7 how long a partition stays with workers that know a task, ms
--       8 JSON of the state versions that this worker can read  9 the partitions whose states it cannot read ("" none, "2,5")
--       10… partition, task, partition, task, …: messages of the task wait there, and this worker does not know it
-- Returns {next, assigned, give_up, policies, known}
--   next      ms until the first lease of another worker ends, -1 if there is no other
--   assigned  {partition, since, partition, …} the partitions this worker must hold; since: the assignment's number, always increasing
--   give_up   {partition, …} those of `assigned` that it must release
--   policies  {computation, JSON, …} operators' changes
--   known     {task, …} those of ARGV 10… that another living worker knows
-- Publishes on `changed` if a worker joined or was found dead. The policies are read with pcall, so that a key of the wrong type under
-- their name does not keep a worker from its share.

local me, lease, my_pins, channel = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[5]
-- How many partitions have a worker, as `Topology.served`.
local topology = redis.call('HMGET', KEYS[11], 'partitions', 'former', 'highest')
local n = math.max(tonumber(topology[1] or ARGV[4]), tonumber(topology[2] or '0'), tonumber(topology[3] or '0'))
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
    for _, i in ipairs({ 6, 7, 9, 10 }) do redis.call('HDEL', KEYS[i], dead) end
    changed = true
  end
end
if redis.call('ZADD', KEYS[1], now + lease, me) == 1 then
  changed = true
end
if my_pins ~= '' then
  redis.call('HSET', KEYS[2], me, my_pins)
end

if redis.call('HGET', KEYS[7], me) ~= ARGV[6] then
  redis.call('HSET', KEYS[7], me, ARGV[6])
end
if redis.call('HGET', KEYS[9], me) ~= ARGV[8] then
  redis.call('HSET', KEYS[9], me, ARGV[8])
end
if (redis.call('HGET', KEYS[10], me) or '') ~= ARGV[9] then
  changed = true
  if ARGV[9] == '' then redis.call('HDEL', KEYS[10], me) else redis.call('HSET', KEYS[10], me, ARGV[9]) end
end

-- Which workers live, which of them are pinned to which partition, and which cannot read it.
local alive, general, pinned_to, refused_by, draining = {}, {}, {}, {}, false
local members = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local next_end = -1
for i = 1, #members, 2 do
  local worker = members[i]
  alive[worker] = true
  if worker ~= me then
    local left = tonumber(members[i + 1]) - now
    if next_end < 0 or left < next_end then next_end = left end
  end
  for partition in string.gmatch(redis.call('HGET', KEYS[10], worker) or '', '[^,]+') do
    refused_by[partition] = refused_by[partition] or {}
    refused_by[partition][worker] = true
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

local function can_read(worker, partition)
  return not (refused_by[partition] and refused_by[partition][worker])
end

-- Those of the general workers that can read a partition.
local function readers_of(partition)
  if not refused_by[partition] then return general end
  local found = {}
  for _, worker in ipairs(general) do
    if can_read(worker, partition) then found[#found + 1] = worker end
  end
  return found
end

-- Which workers know a task. Most groups never ask.
local function that_know(task, workers)
  local found, count = {}, 0
  for _, worker in ipairs(workers) do
    if string.find(redis.call('HGET', KEYS[7], worker) or '', '\n' .. task .. '\n', 1, true) then
      found[worker], count = true, count + 1
    end
  end
  return found, count
end

local everybody, known = {}, {}
for worker in pairs(alive) do everybody[#everybody + 1] = worker end
for i = 10, #ARGV, 2 do
  local partition, task = ARGV[i], ARGV[i + 1]
  local _, count = that_know(task, everybody)
  if count > 0 then
    known[#known + 1] = task
    redis.call('HSET', KEYS[8], partition, string.format('%.0f\n', now + ARGV[7]) .. task)
  end
end

-- The partitions that only some of the general workers may hold, and how many each of them takes.
local wanted_by, most, count_wanted = {}, {}, 0
local wanted_rows = redis.call('HGETALL', KEYS[8])
for i = 1, #wanted_rows, 2 do
  local partition, stop = wanted_rows[i], string.find(wanted_rows[i + 1], '\n', 1, true) or 0
  local who, count = that_know(string.sub(wanted_rows[i + 1], stop + 1), readers_of(partition))
  if (tonumber(string.sub(wanted_rows[i + 1], 1, stop - 1)) or 0) < now then
    redis.call('HDEL', KEYS[8], partition)
  elseif count > 0 and count < #general and not pinned_to[partition] then
    wanted_by[partition], most[partition], count_wanted = who, count, count_wanted + 1
  end
end

local give_up, mine_wanted = {}, 0
for partition in pairs(wanted_by) do
  if owner[partition] == me then mine_wanted = mine_wanted + 1 end
end
-- A partition of them that I may take, as long as I have no more than my part.
local function takes(partition)
  return wanted_by[partition][me] and not owner[partition] and mine_wanted < math.ceil(count_wanted / most[partition])
end

-- A pinned partition goes to the first worker that is pinned to it.
local shared, unreadable, is_general = {}, {}, my_pins == '' and not draining
for number = 0, n - 1 do
  local partition = tostring(number)
  local wanted = pinned_to[partition]
  if wanted_by[partition] then
    wanted = wanted_by[partition]
    if takes(partition) then
      assign(partition)
      mine_wanted = mine_wanted + 1
    end
  elseif not wanted then
    local which = shared
    if refused_by[partition] then
      local whom = {}
      for worker in pairs(refused_by[partition]) do whom[#whom + 1] = worker end
      table.sort(whom)
      local name = table.concat(whom, ' ')
      unreadable[name] = unreadable[name] or {}
      which = unreadable[name]
    end
    which[#which + 1] = partition
  elseif wanted[me] then
    if not owner[partition] and can_read(me, partition) then assign(partition) end
  end
  if owner[partition] == me and ((wanted and not wanted[me]) or (not wanted and not is_general) or not can_read(me, partition)) then
    give_up[#give_up + 1] = partition
  end
end

-- Share some partitions among some workers. Returns whether this worker's share is a smallest one.
local function share_out(partitions, workers)
  local holds = {}
  for _, worker in ipairs(workers) do holds[worker] = 0 end
  if not holds[me] then return false end
  for _, partition in ipairs(partitions) do
    local worker = owner[partition]
    if worker and holds[worker] then holds[worker] = holds[worker] + 1 end
  end
  -- The workers that hold the most get one more than the base; the ingress's holder comes last.
  local base, extra = math.floor(#partitions / #workers), #partitions % #workers
  table.sort(workers, function(a, b)
    if holds[a] ~= holds[b] then return holds[a] > holds[b] end
    local ia, ib = owner.ingress == a, owner.ingress == b
    if ia ~= ib then return ib end
    return a < b
  end)
  local mine, share = holds[me], base
  for place = 1, extra do
    if workers[place] == me then share = base + 1 end
  end
  for i = #partitions, 1, -1 do
    if mine > share and owner[partitions[i]] == me then
      give_up[#give_up + 1] = partitions[i]
      mine = mine - 1
    end
  end
  for _, partition in ipairs(partitions) do
    if mine < share and not owner[partition] then
      assign(partition)
      mine = mine + 1
    end
  end
  return share == base
end

if is_general and #general > 0 then
  -- The ingress goes to a worker with the smallest share.
  local light = share_out(shared, general)
  -- During a deploy: what the same workers cannot read is shared among the others.
  for _, partitions in pairs(unreadable) do share_out(partitions, readers_of(partitions[1])) end
  if wanted_by.ingress then
    if takes('ingress') then
      assign('ingress')
    elseif owner.ingress == me and not wanted_by.ingress[me] then
      give_up[#give_up + 1] = 'ingress'
    end
  elseif not owner.ingress then
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
return { next_end, assigned, give_up, policies.err and {} or policies, known }
