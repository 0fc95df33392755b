-- What a worker should know of the partitions that are assigned to it. One call for many partitions.
--
-- KEYS  for each partition: meta (hash), queue (list), and the priority lists of the queue
-- ARGV  1 worker id  2 how many keys a partition has
-- Returns {token, edit_version, paused, token, …} for each partition; token "": this worker does not hold it; paused 1 or 0.
-- What lies in the priority lists joins their queues' ends: a blocking peek does not see those lists. All by pcall: a foreign type under
-- a name of one partition must not keep the others from being held.

local me, width, answer = ARGV[1], tonumber(ARGV[2]), {}
for first = 1, #KEYS, width do
  local found = redis.pcall('HMGET', KEYS[first], 'token', 'holder', 'edit_version', 'paused')
  local mine = found[2] == me
  answer[#answer + 1] = mine and found[1] or ''
  answer[#answer + 1] = found[3] or '0'
  answer[#answer + 1] = found[4] and 1 or 0
  for i = first + 2, first + width - 1 do
    while type(redis.pcall('LMOVE', KEYS[i], KEYS[first + 1], 'RIGHT', 'LEFT')) == 'string' do end
  end
end
return answer
