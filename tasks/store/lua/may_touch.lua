-- Check whether this Redis user may access a key in scripts. If not, the server refuses the call because of its KEYS.
--
-- KEYS  1 the key
-- Returns 1.

return 1
