-- Takes a lock that nobody holds.
--
-- KEYS[1] the lock
-- ARGV[1] its value: the holder's token, then the holder's name
-- ARGV[2] how many bytes of the value are the token
-- ARGV[3] the TTL in milliseconds
--
-- Returns the fencing token, which is the server's time in microseconds (2^53, where Lua's numbers get inexact, is in the
-- year 2255), or the value that another holder has stored.
local now = redis.call("time")
local fence = now[1] * 1000000 + now[2]
if redis.call("set", KEYS[1], ARGV[1], "NX", "PX", ARGV[3]) then
	return fence
end
local value = redis.call("get", KEYS[1])
local length = tonumber(ARGV[2])
if string.sub(value, 1, length) == string.sub(ARGV[1], 1, length) then
	-- The same attempt again, since the first answer got lost on its way.
	redis.call("set", KEYS[1], ARGV[1], "PX", ARGV[3])
	return fence
end
return value
