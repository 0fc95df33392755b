-- Not a script: included in those that store Celery results.
-- pcall: a message chooses the key of its result. A key with the wrong type, or one that this user may not access, must neither prevent
-- what else is written nor end it half-way.
local function text(key)
  local found = redis.pcall('GET', key)
  return type(found) == 'string' and found or nil
end

local function store_result(key, value, seconds)
  if string.sub(text(key) or '', 1, 20) == '{"status": "SUCCESS"' then return end
  if tonumber(seconds) > 0 then
    redis.pcall('SETEX', key, seconds, value)
  else
    redis.pcall('SET', key, value)
  end
  redis.pcall('PUBLISH', key, value)
end
