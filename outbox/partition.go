package outbox

import "github.com/endstate-go/endstate/internal/sqlplan"

// Partitions is the number of partitions that aggregates are spread over, and so the highest number of relays that find work
// for one subscription at a time. Rows know their partition, so a table keeps the number it was made with.
const Partitions = 8

// The statements' number is the same; where it isn't, this doesn't compile.
const _ = uint(Partitions-sqlplan.Partitions) + uint(sqlplan.Partitions-Partitions)

// Partition returns the partition of an aggregate, from 0 to Partitions-1: the first byte of the SHA-256 of type, slash and id,
// modulo Partitions. Who inserts events with SQL of their own calls the table's function, which returns the same:
//
//	endstate_outbox_partition(aggregate_type, aggregate_id)
func Partition(aggregateType, aggregateID string) int {
	return sqlplan.Partition(aggregateType, aggregateID)
}
