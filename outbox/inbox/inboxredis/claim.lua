-- Claims an event. KEYS[1] the event's key; ARGV: token, event id, digest, lease in milliseconds.
-- Returns nothing if the claim is ours, else the state, event id, digest and value that another delivery left.
local record = redis.call('HMGET', KEYS[1], 'state', 'id', 'digest', 'value', 'token')
if record[1] and record[5] ~= ARGV[1] then
	return {record[1], record[2], record[3], record[4]}
end
redis.call('HSET', KEYS[1], 'state', 'claimed', 'token', ARGV[1], 'id', ARGV[2], 'digest', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {}
