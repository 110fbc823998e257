-- Gives a claim back. KEYS[1] the event's key; ARGV: token. Returns 1 if the claim was ours.
local record = redis.call('HMGET', KEYS[1], 'state', 'token')
if record[1] ~= 'claimed' or record[2] ~= ARGV[1] then
	return 0
end
redis.call('DEL', KEYS[1])
return 1
