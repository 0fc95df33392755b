-- Ask whether this user may touch a key in scripts. A server refuses a call whose KEYS hold one that the user may not touch.
--
-- KEYS  1 the key
-- Returns 1.

return 1
