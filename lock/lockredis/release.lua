-- Gives a lock back if it still has this value, and wakes those who wait for it, if anybody does. Returns whether it had.
--
-- KEYS[1] the lock, and the name of the channel that its waiters listen to
-- ARGV[1] the value with which it was taken
local value = redis.call("get", KEYS[1])
if value == ARGV[1] then
	return redis.call("del", KEYS[1])
end
if value == "+" .. string.sub(ARGV[1], 2) then
	redis.call("del", KEYS[1])
	-- A user who may not publish still gives the lock back: waiters ask again by themselves.
	redis.pcall("publish", KEYS[1], "released")
	return 1
end
return 0
