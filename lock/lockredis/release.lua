-- Gives a lock back if it still has this value, and wakes those who wait for it. Returns whether it had.
--
-- KEYS[1] the lock, and the name of the channel that its waiters listen to
-- ARGV[1] the value
-- ARGV[2] "1" to wake waiters
if redis.call("get", KEYS[1]) ~= ARGV[1] then
	return 0
end
redis.call("del", KEYS[1])
if ARGV[2] == "1" then
	-- A user who may not publish still gives the lock back: waiters ask again by themselves.
	redis.pcall("publish", KEYS[1], "released")
end
return 1
