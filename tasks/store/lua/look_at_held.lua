-- Read the meta of the partitions assigned to a worker, many in one call, and move their messages with a priority to the queues.
--
-- KEYS  for each partition: meta (hash), inbox (list), queue (list), and the priority lists of the queue
-- ARGV  1 worker id  2 number of keys per partition
-- Returns {token, edit_version, paused, inbox, token, …}, four for each partition; token "": this worker does not hold it; paused 1 or 0;
-- inbox 1 if it is not empty, else 0.
-- Messages in the priority lists go to the end of their queue, because a blocking peek does not see those lists. Uses pcall throughout: a
-- key of the wrong type in one partition must not keep the worker from holding the others.

local me, width, answer = ARGV[1], tonumber(ARGV[2]), {}
local moves = 0  -- bounded: a script holds up the whole server. The commits of the partition move the rest.
for first = 1, #KEYS, width do
  local found = redis.pcall('HMGET', KEYS[first], 'token', 'holder', 'edit_version', 'paused')
  local mine = found[2] == me
  answer[#answer + 1] = mine and found[1] or ''
  answer[#answer + 1] = found[3] or '0'
  answer[#answer + 1] = found[4] and 1 or 0
  answer[#answer + 1] = redis.call('EXISTS', KEYS[first + 1])
  for i = first + 3, first + width - 1 do
    while moves < 1000 and type(redis.pcall('LMOVE', KEYS[i], KEYS[first + 2], 'RIGHT', 'LEFT')) == 'string' do moves = moves + 1 end
  end
end
return answer
