// Package outbox writes events into a table as part of the caller's transaction, so that they are there if and only if what
// they announce is. Package relay publishes them from there.
//
// # What it promises
//
// Of writing:
//
//   - Put writes in the caller's transaction and never ends it. Events commit with it or not at all.
//   - An event whose dedup key, or id, another event holds is left out, reported with that event's id, and writes nothing;
//     the caller's transaction stays usable.
//   - Dedup covers every row in the table, published ones too. It ends when a row is deleted: what must be deduplicated
//     forever is the ledger's task (package guard), which no retention touches.
//   - An event keeps its id and its payload's bytes.
//   - Within one aggregate that a guard locks, the column seq follows the commit order, since it is allocated under the
//     lock. Across aggregates, and for bare Puts of concurrent transactions that lock nothing, it follows no order.
//
// Put writes into a log: rows are appended, read in their order, and deleted by retention, and nothing updates them. Package
// outbox/relay publishes from it, for any number of subscriptions, and its documentation says how, and what that promises.
//
// # The tables
//
// DefaultTable, or any other name and schema (Writer), with the relay's tables beside it, named after it. Writer.Migrate creates
// them, Writer.Check and relay.Check say what is missing, and package
// migrations has the files for tools. docs/outbox-queries.md says which question is
// answered by which index.
//
// Who inserts with SQL of their own gives id, aggregate_type, aggregate_id, type, payload and
// partition: endstate_outbox_partition(aggregate_type, aggregate_id). The other columns have defaults, and must keep them: txid and
// seq above all.
package outbox
