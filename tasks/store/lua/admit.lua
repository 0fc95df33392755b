-- During a resize: move messages from a partition's queue to its inbox, once no older message for its keys can be in another partition's lists.
--
-- KEYS  for this partition, and then for each of its sources: meta (hash), queue (list), inbox (list), the three priority lists of the queue
-- ARGV  1 token  2 how many messages may be admitted now: the oldest in the queue  3 the most messages to admit  4 1 if the partition's sources are not in KEYS, else 0
-- Returns {admitted, waiting, ready, removed, left, removed, left, …}; or {-1} if another worker has the lease
--   waiting   how many messages are in the queue afterwards; ready: in the inbox
--   removed, left   of each source: how many messages were taken from it so far, and how many it has. The messages of the queue may be
--             admitted as soon as this number of messages was taken from each source
-- If no source has a message, all may be admitted. But not if the sources are on other servers (ARGV[4]): then this script sees none of them.

local token, may, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if redis.call('HGET', KEYS[1], 'token') ~= token then
  return { -1 }
end

local moves = 0  -- bounded: a script holds up the whole server
for first = 1, #KEYS, 6 do
  for i = first + 3, first + 5 do
    while moves < 1000 and redis.call('LMOVE', KEYS[i], KEYS[first + 1], 'RIGHT', 'LEFT') do moves = moves + 1 end
  end
end

local sources, all = {}, 0
for first = 7, #KEYS, 6 do
  local left = 0
  for i = first + 1, first + 5 do left = left + redis.call('LLEN', KEYS[i]) end
  sources[#sources + 1] = tonumber(redis.call('HGET', KEYS[first], 'removed') or '0')
  sources[#sources + 1] = left
  all = all + left
end
local admitted = 0
if all == 0 and ARGV[4] ~= '1' then may = most end
may = math.min(may, most)
while admitted < may do
  local some = redis.call('LRANGE', KEYS[2], -math.min(1000, may - admitted), -1)
  if #some == 0 then break end
  local oldest_first = {}
  for i = #some, 1, -1 do oldest_first[#oldest_first + 1] = some[i] end
  redis.call('LTRIM', KEYS[2], 0, -#some - 1)
  redis.call('LPUSH', KEYS[3], unpack(oldest_first))
  admitted = admitted + #some
end
return { admitted, redis.call('LLEN', KEYS[2]), redis.call('LLEN', KEYS[3]), unpack(sources) }
