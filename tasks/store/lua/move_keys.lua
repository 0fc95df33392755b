-- Move keys of a partition, or a part of what belongs to them, to another partition. All or nothing; doing it again changes nothing.
--
-- KEYS  1 meta (hash) of the partition  2 group (hash)  3 meta (hash) of the other partition
--       4… for each command: the Redis key to move from, and the one to move to
-- ARGV  1 token of the partition  2 epoch  3 "new" if the other partition had no keys before this epoch, else ""
--       4… commands, each: its name, a count, and that number of words
--         hash   fields that leave one hash for the other
--         zset   members, with their scores
--         list   0 words: the whole list
--         put    a field and its new value: as hash, but with this value
--         raise  fields of meta: the highest value counts, or one that is no number; both keep it
--         set    members that both have afterwards; the other set lives as long as this one
-- Returns "ok"; "fenced": another worker has the lease; "changed": the group's topology is another by now; or "open": the other partition still
-- works by its older topology. Nothing is written then.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 'fenced'
end
if redis.call('HGET', KEYS[2], 'epoch') ~= ARGV[2] or redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then
  return 'changed'
end
if ARGV[3] ~= 'new' and redis.call('HGET', KEYS[3], 'epoch') ~= ARGV[2] then
  return 'open'
end

local i, k = 4, 4
while i <= #ARGV do
  local what, count, from, to = ARGV[i], tonumber(ARGV[i + 1]), KEYS[k], KEYS[k + 1]
  local first, last = i + 2, i + 1 + count
  if what == 'hash' then
    local values, pairs_of, gone = redis.call('HMGET', from, unpack(ARGV, first, last)), {}, {}
    for at, value in ipairs(values) do
      if value then
        pairs_of[#pairs_of + 1] = ARGV[first + at - 1]
        pairs_of[#pairs_of + 1] = value
        gone[#gone + 1] = ARGV[first + at - 1]
      end
    end
    if #gone > 0 then
      redis.call('HDEL', from, unpack(gone))
      redis.call('HSET', to, unpack(pairs_of))
    end
  elseif what == 'put' then
    if redis.call('HDEL', from, ARGV[first]) == 1 then redis.call('HSET', to, ARGV[first], ARGV[last]) end
  elseif what == 'zset' then
    for at = first, last do
      local score = redis.call('ZSCORE', from, ARGV[at])
      if score then
        redis.call('ZREM', from, ARGV[at])
        redis.call('ZADD', to, score, ARGV[at])
      end
    end
  elseif what == 'list' then
    if redis.call('EXISTS', from) == 1 then redis.call('RENAME', from, to) end
  elseif what == 'raise' then
    for at = first, last do
      local value, there = redis.call('HGET', from, ARGV[at]), redis.call('HGET', to, ARGV[at])
      local old, new = tonumber(there or ''), tonumber(value or '')
      if value and (not there or not new or (old and old < new)) then redis.call('HSET', to, ARGV[at], value) end
    end
  elseif what == 'set' then
    redis.call('SADD', to, unpack(ARGV, first, last))
    redis.call('PEXPIRE', to, math.max(redis.call('PTTL', from), redis.call('PTTL', to), 1))
  end
  i, k = last + 1, k + 2
end
return 'ok'
