-- Pause or resume partitions.
--
-- KEYS  1 audit (stream)  2… the meta (hash) of each partition
-- ARGV  1 "pause" or "resume"  2 value of the field `paused`: "1" for operators and failure policies, who override an export; another word
--       for an export, which pauses only running partitions and resumes only those that it paused itself
--       3 channel `changed`  4 approximate maximum length of the audit  5 who  6 what  7 detail (JSON)
-- Returns the indexes, from 1 on, of the partitions that changed. A partition that an export paused counts as not paused for an operator.
-- Publishes on `changed` if any changed.

local decides = ARGV[2] == '1'

local function changes(paused)
  if ARGV[1] == 'pause' then
    return not paused or (decides and paused ~= '1')
  end
  return paused and (decides or paused == ARGV[2])
end

local changed = {}
for i = 2, #KEYS do
  if changes(redis.call('HGET', KEYS[i], 'paused')) then
    changed[#changed + 1] = i - 1
  end
end
if #changed == 0 then
  return changed
end
-- Write the audit entry first: if that fails, nothing else is done.
redis.call('XDEL', KEYS[1], '0-1')  -- nothing; a full server refuses a script if its first write needs memory
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'who', ARGV[5], 'what', ARGV[6], 'detail', ARGV[7])
for _, number in ipairs(changed) do
  if ARGV[1] == 'pause' then
    redis.call('HSET', KEYS[number + 1], 'paused', ARGV[2])
  else
    redis.call('HDEL', KEYS[number + 1], 'paused')
  end
end
redis.call('PUBLISH', ARGV[3], '')
return changed
