// Command pool gives a pool where a transaction is wanted. Every line marked "wrong" must not compile, every line marked
// "right" must.
package main

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

func main() {
	var (
		ctx   context.Context
		pool  *pgxpool.Pool
		conn  *pgx.Conn
		tx    pgx.Tx
		db    *sql.DB
		one   *sql.Conn
		sqlTx *sql.Tx

		g      guard.Guard
		ref    guard.Ref
		key    guard.Key
		event  outbox.Event
		status guard.Status
		writer outbox.Writer
		ledger guard.Ledger
		fin    *finalize.Finalizer[pgx.Tx]
		finSQL *finalize.Finalizer[*sql.Tx]
	)

	outbox.Put(ctx, tx, event)                         // right
	outbox.Put(ctx, endstate.PostgresTx(sqlTx), event) // right
	outbox.Put(ctx, endstate.SQLiteTx(sqlTx), event)   // right
	outbox.Put(ctx, pool, event)                       // wrong
	outbox.Put(ctx, conn, event)                       // wrong
	outbox.Put(ctx, db, event)                         // wrong
	outbox.Put(ctx, one, event)                        // wrong
	outbox.Put(ctx, endstate.PostgresTx(db), event)    // wrong
	outbox.Put(ctx, endstate.SQLiteTx(db), event)      // wrong
	writer.Put(ctx, pool, event)                       // wrong
	writer.Migrate(ctx, tx)                            // right
	writer.Migrate(ctx, pool)                          // wrong

	g.Claim(ctx, tx, ref)                              // right
	g.Claim(ctx, endstate.SQLiteTx(sqlTx), ref)        // right
	g.Claim(ctx, pool, ref)                            // wrong
	g.Claim(ctx, conn, ref)                            // wrong
	g.Claim(ctx, db, ref)                              // wrong
	g.Claim(ctx, endstate.PostgresTx(db), ref)         // wrong
	g.Settle(ctx, tx, ref, guard.Transition{})         // right
	g.Settle(ctx, pool, ref, guard.Transition{})       // wrong
	g.Settle(ctx, db, ref, guard.Transition{})         // wrong
	status.Protect(ctx, tx)                            // right
	status.Protect(ctx, pool)                          // wrong
	ledger.Migrate(ctx, pool)                          // wrong
	ledger.Read(ctx, pool, ref)                        // right
	status.Claim(ctx, endstate.PostgresTx(sqlTx), ref) // right
	status.Settle(ctx, conn, ref, guard.Transition{})  // wrong
	status.Claim(ctx, endstate.SQLiteTx(one), ref)     // wrong

	fin.DoTx(ctx, tx, key, "t", nil)       // right
	fin.DoTx(ctx, pool, key, "t", nil)     // wrong
	fin.DoTx(ctx, conn, key, "t", nil)     // wrong
	fin.DoTx(ctx, sqlTx, key, "t", nil)    // wrong
	finSQL.DoTx(ctx, sqlTx, key, "t", nil) // right
	finSQL.DoTx(ctx, db, key, "t", nil)    // wrong
	finSQL.DoTx(ctx, one, key, "t", nil)   // wrong
	finSQL.DoTx(ctx, tx, key, "t", nil)    // wrong
}
