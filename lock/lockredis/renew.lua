-- Begins the TTL of a lock anew if it still has this value. Returns whether it had.
--
-- KEYS[1] the lock
-- ARGV[1] the value
-- ARGV[2] the TTL in milliseconds
if redis.call("get", KEYS[1]) ~= ARGV[1] then
	return 0
end
return redis.call("pexpire", KEYS[1], ARGV[2])
