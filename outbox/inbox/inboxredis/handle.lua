-- Marks an event as handled. KEYS[1] the event's key; ARGV: token, event id, digest, retention in milliseconds, and the
-- function's result if it has one. Returns 1 unless another delivery has the claim, or had it and handled the event, too.
local record = redis.call('HMGET', KEYS[1], 'state', 'token')
if record[1] and record[2] ~= ARGV[1] then
	return 0
end
redis.call('HSET', KEYS[1], 'state', 'handled', 'token', ARGV[1], 'id', ARGV[2], 'digest', ARGV[3])
if ARGV[5] then
	redis.call('HSET', KEYS[1], 'value', ARGV[5])
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
