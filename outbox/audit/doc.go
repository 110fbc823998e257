// Package audit counts the duplicates that an outbox table has already: events of one aggregate and type beyond the first.
// It works on any table, not only on the library's own, on PostgreSQL and SQLite. The command endstate audit db prints what
// it finds.
//
// # What it promises
//
//   - It only reads: in one read-only transaction with one snapshot, so that all of a report's figures are of one moment, and
//     under a timeout that the server keeps too. It takes no lock that a writer would wait for.
//   - A report is whole or there is none: an error leaves nothing half-counted.
//   - It needs memory for what it reports, not for what it reads. The database does the counting, in temporary files where
//     it must.
//
// # What is counted
//
// An aggregate is a pair of an aggregate's id and an event type, since one completion may well put events of several types. All
// its events but one are duplicates. A row whose id or type is NULL belongs to no aggregate and is counted apart
// (Report.NullKeys). One whose time is NULL, infinite, or on SQLite no time at all, is an event like any other and counted as
// one, but has no place in the order: it is counted apart too (Report.NullTimes), and no gap is measured to it.
//
// Times without a zone are taken for UTC. On SQLite a time is text in a form that SQLite knows or that Go's Time.String
// writes, read to the millisecond. A number, on either database, is the time since 1970, in the unit (from seconds to
// nanoseconds) that puts it nearest to the present.
package audit
