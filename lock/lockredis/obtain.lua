-- Takes a lock that nobody holds.
--
-- KEYS[1] the lock
-- ARGV[1] its value: "-", or "." if its release tells nobody, then a random token, then the holder's name
-- ARGV[2] how many bytes of the value come before the name
-- ARGV[3] the TTL in milliseconds
-- ARGV[4] "1" if the caller waits for a message. Then the first byte of the holder's value becomes "+": only such a lock's
--         release pays for one.
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
if string.sub(value, 2, length) == string.sub(ARGV[1], 2, length) then
	-- The same attempt again, since the first answer got lost on its way.
	redis.call("pexpire", KEYS[1], ARGV[3])
	return fence
end
if ARGV[4] == "1" and string.sub(value, 1, 1) == "-" then
	redis.pcall("setrange", KEYS[1], 0, "+")
end
return value
