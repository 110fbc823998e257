// Package migrations is the set-up of all of the library's tables at once: the ledger's, the outbox's, its relay's and the
// inbox's, by Apply, or by the tool that a service has: goose, golang-migrate or tern.
//
// # By the program
//
//	err := migrations.Apply(ctx, pool) // or ApplySQL; at every start, in any number of processes
//
// Finalizer.Migrate and Table.Migrate do the same for what those need. Where all is there nothing is written, and no right to
// is needed.
//
// # By a tool
//
// Export writes the migrations into a folder of a service's own, in the tool's format, with the versions that come next there;
// after an upgrade of this library it writes new files only. From the command line:
//
//	endstate migrate --dir db/migrations --format goose
//
// FS has them for a tool that is used as a library, with timestamps as versions.
//
// # By both
//
// What has to be done is decided by what is there: tables, columns, types and indexes, and not by a tool's own records. So
// Apply accepts what a tool has run. The other way round each file can be run again, and does nothing where its tables are
// there; so a tool accepts, and records, what Apply has done.
//
// # Which versions go together
//
// A schema's version is that of its newest file. Each file, whoever runs it, notes its version in the table
// endstate_migrations of its schema, and the oldest version of the library that works with it. Check (of a finalizer, an
// inbox, a guard) compares:
//
//   - The database is older than the library: it refuses, and says what to apply. So migrations go first.
//   - The database is newer: it is accepted, unless a file notes that it broke versions like this library's. A file breaks none
//     that was current when the file before it was new: what is taken away was left unused by the version before. So programs
//     of two adjacent schema versions run side by side, while one is being replaced by the other.
//
// # Privileges
//
// The role that migrates needs CREATE on the schema, once. What producers, relays, inboxes and operators need is in
// docs/privileges.md.
package migrations
