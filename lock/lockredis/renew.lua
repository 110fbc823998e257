-- Begins the TTL of a lock anew if it still has this value. Returns whether it had.
--
-- KEYS[1] the lock
-- ARGV[1] the value with which it was taken, whose first byte a waiter may have changed
-- ARGV[2] the TTL in milliseconds
local value = redis.call("get", KEYS[1])
if value and string.sub(value, 2) == string.sub(ARGV[1], 2) then
	return redis.call("pexpire", KEYS[1], ARGV[2])
end
return 0
