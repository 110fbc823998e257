-- Renews a claim. KEYS[1] the event's key; ARGV: token, event id, digest, lease in milliseconds.
-- Returns 1 if the claim is ours. One that Redis forgot, and that nobody else took, is made anew.
local record = redis.call('HMGET', KEYS[1], 'state', 'token')
if record[1] and (record[1] ~= 'claimed' or record[2] ~= ARGV[1]) then
	return 0
end
redis.call('HSET', KEYS[1], 'state', 'claimed', 'token', ARGV[1], 'id', ARGV[2], 'digest', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
