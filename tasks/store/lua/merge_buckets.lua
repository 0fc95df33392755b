-- Not a script: included in those that rename computations. A bucket that exists under both names is full again at the later of both times: no token is given twice.
local function merge_buckets(from, to)
  redis.call('ZUNIONSTORE', to, 2, to, from, 'AGGREGATE', 'MAX')
  redis.call('DEL', from)
end
