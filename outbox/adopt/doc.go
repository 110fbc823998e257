// Package adopt moves an outbox table that has duplicates, any service's, to one that can't: the duplicates go into a backup
// table, and a unique index over aggregate and event type keeps new ones out. PostgreSQL 14 or newer. The command endstate
// adopt runs it.
//
// # What it promises
//
//   - No row is lost. A removed row moves to the backup table in one statement, so the table and its backup together are the
//     original, whenever one looks, and Undo puts the rows back. A table whose removed rows would take others along (by ON
//     DELETE CASCADE, say) is refused: ErrSchema.
//   - Of each aggregate's events the one that was published first stays, or the oldest if none was: the service's relay would
//     publish another one again. Config.Published says which are published. A column that doesn't say it by its type (a status,
//     a number, a time that is never NULL) needs a condition, and a table that can't be judged is refused untouched: ErrSchema.
//   - Plan lists which of an aggregate's events stays, and why.
//   - Writers go on. What takes a lock that they would wait for is short, and gives up after Config.LockTimeout to try again
//     later. Indexes are built concurrently.
//   - It may be killed at any point, and run again: each step looks at what is there. Two at once take turns.
//   - When Apply returns nil the index is valid, over published rows as well as unpublished ones.
//
// # The steps
//
// Apply adds the columns, builds an index that isn't unique, and with it puts up a barrier: a trigger that refuses further
// duplicates with SQLSTATE 23505, as the unique index will. Without one, writers that go on to write duplicates would keep the
// index from ever being built. Then it removes duplicates in batches, builds the unique index, and takes the barrier down. So
// from the barrier on, code that writes a second event of an aggregate gets an error. With ON CONFLICT DO NOTHING, as
// outbox.Writer has it, that lasts until the index is there: run Apply when such code may fail and try again.
//
// It needs a session of its own, so not a pooler in transaction mode, and the rights of the table's owner.
package adopt
