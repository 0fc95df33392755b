-- Take over the buckets of rate limits that all partitions share, from a former name of their computation. Also done if nothing is there.
--
-- KEYS  1 buckets of the former name (zset), 2 buckets of its name (zset)

-- include merge_buckets

merge_buckets(KEYS[1], KEYS[2])
return 1
