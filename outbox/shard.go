package outbox

import "crypto/sha256"

// Shards is the number of shards that aggregates are spread over, and so the highest number of relays that find work at
// one time. It never changes: rows know their shard.
const Shards = 64

// Shard returns the shard of an aggregate, from 0 to Shards-1, the same for ever: the first byte of the SHA-256 of type,
// slash and id. Who inserts events with SQL of their own computes it as
//
//	get_byte(sha256(convert_to(aggregate_type || '/' || aggregate_id, 'UTF8')), 0) % 64
func Shard(aggregateType, aggregateID string) int {
	var buffer [128]byte
	name := append(append(append(buffer[:0], aggregateType...), '/'), aggregateID...)
	return int(sha256.Sum256(name)[0]) % Shards
}
