package finalize_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// A repeat on a key that is known to be final: what each call of a runaway loop costs.
func BenchmarkRepeat(b *testing.B) {
	fin, err := finalize.NewSQL(dbtest.SQLiteOn(b, dbtest.SQLiteDSN(b.TempDir()+"/b.db", "wal")), &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}, Logger: discard()})
	require.NoError(b, err)
	require.NoError(b, fin.Migrate(b.Context()))
	never := func(context.Context, *sql.Tx) (finalize.Outcome, error) { panic("the callback of a loser ran") }
	_, err = fin.Settle(b.Context(), guard.Int(1234567), "sweep", completed())
	require.NoError(b, err)
	b.Run("Do", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r, err := fin.Do(b.Context(), guard.Int(1234567), "loop", never); err != nil || r.Won {
				b.Fatal(r, err)
			}
		}
	})
	b.Run("Settle", func(b *testing.B) {
		out := completed()
		b.ReportAllocs()
		for b.Loop() {
			if r, err := fin.Settle(b.Context(), guard.Int(1234567), "loop", out); err != nil || r.Won {
				b.Fatal(r, err)
			}
		}
	})
}
