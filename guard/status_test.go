package guard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
)

func TestStatusComparesStatesLiterally(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		for _, tt := range protectable {
			table := "jobs_" + tt.name
			s := db.status(t, table)
			s.Terminal = tt.states
			for i, state := range append(tt.terminal, tt.open...) {
				ref := batch(guard.Text(fmt.Sprint(i)))
				db.exec(t, fmt.Sprintf("INSERT INTO %s (id, status) VALUES ($1, $2)", table), ref.Key.String(), state)
				rec, err := db.claim(t, s, ref)
				require.NoError(t, err)
				require.Equal(t, guard.Record{Final: i < len(tt.terminal), State: state}, guard.Record{Final: rec.Final, State: rec.State})
				_, err = db.settle(t, s, ref, tt.terminal[0])
				if i < len(tt.terminal) {
					require.ErrorIs(t, err, guard.ErrNotOpen, "%q", state)
				} else {
					require.NoError(t, err, "%q", state)
				}
			}
		}
	})
}

func TestStatusNullIsOpen(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		for name, states := range map[string]guard.States{"prefixes": terminal, "names": names, "func": fn} {
			s := db.status(t, "jobs_"+name)
			s.Terminal = states
			db.exec(t, fmt.Sprintf("INSERT INTO jobs_%s (id, status) VALUES ('1', NULL)", name))
			rec, err := db.claim(t, s, batch(guard.Text("1")))
			require.NoError(t, err)
			require.False(t, rec.Final)
			require.Empty(t, rec.State)
			_, err = db.settle(t, s, batch(guard.Text("1")), "COMPLETE_STABLE")
			require.NoError(t, err)
			require.Equal(t, "COMPLETE_STABLE", one[string](t, db, fmt.Sprintf("SELECT status FROM jobs_%s", name)))
		}
	})
}

func TestStatusSetsOtherColumns(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		timestamp := "timestamptz"
		if db.sqlite {
			timestamp = "text"
		}
		db.exec(t, fmt.Sprintf(`CREATE TABLE batches (id text PRIMARY KEY, status text, completed_at %s, "By Whom" text, tries bigint, note text)`, timestamp))
		db.exec(t, "INSERT INTO batches (id, note) VALUES ('b1', 'x'), ('b2', 'x')")
		s := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: terminal, Set: map[string]any{
			"completed_at": guard.Now, "By Whom": guard.By, "tries": int64(7), "note": nil,
		}}
		_, err := db.settle(t, s, batch(guard.Text("b1")), "COMPLETE_STABLE")
		require.NoError(t, err)
		require.Equal(t, "COMPLETE_STABLE test 7 -", one[string](t, db, `SELECT status || ' ' || "By Whom" || ' ' || tries || ' ' || coalesce(note, '-') FROM batches WHERE id = 'b1'`))
		now := "abs(extract(epoch FROM clock_timestamp() - completed_at))"
		if db.sqlite {
			now = "abs(julianday('now') - julianday(completed_at)) * 86400"
		}
		require.Less(t, one[float64](t, db, "SELECT "+now+" FROM batches WHERE id = 'b1'"), 60.0, "completed_at is the database's clock")
		require.Equal(t, 1, one[int](t, db, "SELECT count(*) FROM batches WHERE note = 'x' AND completed_at IS NULL"), "the other row is as it was")
	})
}

// F23: hostile names of tables and columns.
func TestStatusWithAnyNames(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		db.status(t, "batches", "bystander")
		for _, name := range hostileNames {
			if !dbtest.Apostrophes() && strings.ContainsAny(name, "'$") {
				continue
			}
			t.Run(name, func(t *testing.T) {
				q := pgx.Identifier{name}.Sanitize()
				key, other := "K"+name[:len(name)-2], "O"+name[:len(name)-2]
				qk, qo := pgx.Identifier{key}.Sanitize(), pgx.Identifier{other}.Sanitize()
				s := guard.Status{Schema: name, Table: name, Key: key, Column: name, Terminal: terminal, Set: map[string]any{other: guard.By}}
				l := guard.Ledger{Schema: name, Table: "L" + name[:len(name)-2]}
				if db.sqlite {
					s.Schema, l.Schema = "main", "main"
				} else {
					db.exec(t, "CREATE SCHEMA "+q)
				}
				table := pgx.Identifier{s.Schema, name}.Sanitize()
				db.exec(t, fmt.Sprintf("CREATE TABLE %s (%s text PRIMARY KEY, %s text, %s text)", table, qk, q, qo))
				db.exec(t, fmt.Sprintf("INSERT INTO %s VALUES ('b1', 'PENDING', NULL)", table))
				g := guard.All(s, l)
				db.migrate(t, g.(guard.Migrator))
				db.in(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, g.(guard.Checker).Check(ctx, tx)) })
				_, err := db.settle(t, g, batch(guard.Text("b1")), "COMPLETE_STABLE")
				require.NoError(t, err)
				require.Equal(t, "COMPLETE_STABLE test", one[string](t, db, fmt.Sprintf("SELECT %s || ' ' || %s FROM %s", q, qo, table)))
				rec, err := db.claim(t, g, batch(guard.Text("b1")))
				require.NoError(t, err)
				require.True(t, rec.Final)
				require.Equal(t, "test", rec.Provenance.Trigger)
			})
		}
		require.Equal(t, "PENDING", one[string](t, db, "SELECT status FROM batches"), "the bystander")
	})
}

// F23: hostile values travel as arguments.
func TestStatusWithAnyValues(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		s := db.status(t, "batches", "bystander")
		db.migrate(t, guard.Ledger{})
		g := guard.All(s, guard.Ledger{})
		for _, value := range append(hostileNames, strings.Repeat("k", 998)) {
			db.exec(t, "INSERT INTO batches (id, status) VALUES ($1, $2)", value, value)
			ref := guard.Ref{Aggregate: value[:min(len(value), 60)], Key: guard.Text(value)}
			to := transition("COMPLETE" + value)
			to.Trigger = value
			db.in(t, func(ctx context.Context, tx endstate.Tx) {
				_, err := g.Claim(ctx, tx, ref)
				require.NoError(t, err)
				_, err = g.Settle(ctx, tx, ref, to)
				require.NoError(t, err)
			})
			rec, err := db.claim(t, g, ref)
			require.NoError(t, err)
			require.Equal(t, "COMPLETE"+value, rec.State)
			require.Equal(t, value, rec.Provenance.Trigger)
		}
		require.Equal(t, "PENDING", one[string](t, db, "SELECT status FROM batches WHERE id = 'bystander'"))
	})
}

// A key of another kind than its column is an error on PostgreSQL and no row on SQLite: one aggregate never has two keys.
func TestStatusKeyOfTheWrongKind(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		id := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
		uuidType := "uuid"
		if db.sqlite {
			uuidType = "text"
		}
		tables := map[string]guard.Status{}
		for kind, column := range map[string]string{"text": "text", "varchar": "varchar(40)", "int": "integer", "small": "smallint", "uuid": uuidType} {
			db.exec(t, fmt.Sprintf("CREATE TABLE by_%s (id %s PRIMARY KEY, status text)", kind, column))
			value := "1"
			if kind == "uuid" {
				value = id.String()
			}
			db.exec(t, fmt.Sprintf("INSERT INTO by_%s VALUES ('%s', 'PENDING')", kind, value))
			tables[kind] = guard.Status{Table: "by_" + kind, Key: "id", Column: "status", Terminal: terminal}
		}
		for _, tt := range []struct {
			table string
			key   guard.Key
		}{
			{"text", guard.Int(1)}, {"text", guard.UUID(id)}, {"varchar", guard.Int(1)},
			{"int", guard.Text("1")}, {"int", guard.Text("01")}, {"int", guard.UUID(id)}, {"small", guard.Text("1")},
			{"uuid", guard.Int(1)}, {"uuid", guard.Text(strings.ToUpper(id.String()))},
		} {
			_, err := db.settle(t, tables[tt.table], batch(tt.key), "COMPLETE_STABLE")
			require.Error(t, err, "%s in %s", tt.key.Encode(), tt.table)
			if db.sqlite {
				require.ErrorIs(t, err, guard.ErrNotFound, "%s in %s", tt.key.Encode(), tt.table)
			} else {
				require.Equal(t, "42883", sqltx.State(err), "%s in %s: no such operator: %v", tt.key.Encode(), tt.table, err)
			}
		}
		_, err := db.claim(t, tables["text"], batch(guard.Composite(guard.Text("1"), guard.Text("2"))))
		require.ErrorIs(t, err, guard.ErrInvalidKey)
		require.ErrorContains(t, err, "it has 2 parts")
		for kind, key := range map[string]guard.Key{"text": guard.Text("1"), "varchar": guard.Text("1"), "int": guard.Int(1), "small": guard.Int(1), "uuid": guard.UUID(id)} {
			_, err := db.settle(t, tables[kind], batch(key), "COMPLETE_STABLE")
			require.NoError(t, err, kind)
		}
		// A number that doesn't fit into the column is not there.
		_, err = db.claim(t, tables["small"], batch(guard.Int(1<<40)))
		require.ErrorIs(t, err, guard.ErrNotFound)
	})
}

func TestStatusFindsAUUIDInAnySpelling(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, func(t *testing.T, db *database) {
		db.exec(t, "CREATE TABLE batches (id uuid PRIMARY KEY, status text)")
		db.exec(t, "INSERT INTO batches VALUES ('6BA7B810-9DAD-11D1-80B4-00C04FD430C8', 'PENDING')")
		s := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: terminal}
		key, err := guard.ParseUUID("6BA7B8109DAD11D180B400C04FD430C8")
		require.NoError(t, err)
		_, err = db.settle(t, s, batch(key), "COMPLETE_STABLE")
		require.NoError(t, err)
	})
}

// Keys and states are compared byte by byte, also where a column's collation would take two for equal.
func TestStatusIgnoresCollations(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		db := newDatabase(t, "sqlite-wal")
		db.exec(t, "CREATE TABLE batches (id text PRIMARY KEY COLLATE NOCASE, status text COLLATE NOCASE)")
		db.exec(t, "INSERT INTO batches VALUES ('b1', 'complete_stable')")
		s := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: terminal}
		_, err := db.claim(t, s, batch(guard.Text("B1")))
		require.ErrorIs(t, err, guard.ErrNotFound)
		db.protect(t, s)
		_, err = db.settle(t, s, batch(guard.Text("b1")), "COMPLETE_STABLE")
		require.NoError(t, err, "complete_stable is open")
		db.requireProtected(t, db.attempt(t, "UPDATE batches SET status = 'complete_stable'"))
	})
	t.Run("pgx", func(t *testing.T) {
		db := newDatabase(t, "pgx")
		db.exec(t, "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
		db.exec(t, "CREATE TABLE batches (id text PRIMARY KEY, status text COLLATE nocase)")
		db.exec(t, "INSERT INTO batches VALUES ('b1', 'complete_stable')")
		s := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Names("COMPLETE_STABLE", "ERROR")}
		db.protect(t, s)
		_, err := db.settle(t, s, batch(guard.Text("b1")), "COMPLETE_STABLE")
		require.NoError(t, err, "complete_stable is open")
		db.requireProtected(t, db.attempt(t, "UPDATE batches SET status = 'complete_stable'"))
	})
}

// A claim is FOR NO KEY UPDATE: rows that reference the aggregate can be inserted meanwhile.
func TestStatusClaimLetsReferencingRowsIn(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	s := db.status(t, "batches", "b1")
	db.exec(t, "CREATE TABLE comparisons (batch text REFERENCES batches)")
	db.in(t, func(ctx context.Context, tx endstate.Tx) {
		_, err := s.Claim(ctx, tx, batch(guard.Text("b1")))
		require.NoError(t, err)
		db.in(t, func(ctx context.Context, other endstate.Tx) {
			_, err := other.Exec(ctx, "SET LOCAL lock_timeout = '10s'")
			require.NoError(t, err)
			_, err = other.Exec(ctx, "INSERT INTO comparisons VALUES ('b1')")
			require.NoError(t, err)
		})
	})
}

// A claim that waited decides on the row as it is then, whatever the one that it waited for did.
func TestStatusClaimAfterOtherChanges(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, func(t *testing.T, db *database) {
		s := db.status(t, "batches", "running", "bypassed", "deleted", "moved")
		for id, change := range map[string]string{
			"running":  "UPDATE batches SET status = 'RUNNING' WHERE id = 'running'",
			"bypassed": "UPDATE batches SET status = 'ERROR_BY_HAND' WHERE id = 'bypassed'",
			"deleted":  "DELETE FROM batches WHERE id = 'deleted'",
			"moved":    "UPDATE batches SET id = 'elsewhere' WHERE id = 'moved'",
		} {
			rec, err := db.claimBehind(t, s, batch(guard.Text(id)), change)
			switch id {
			case "running":
				require.NoError(t, err)
				require.False(t, rec.Final)
				require.Equal(t, "RUNNING", rec.State)
			case "bypassed":
				require.NoError(t, err)
				require.True(t, rec.Final)
				require.Equal(t, "ERROR_BY_HAND", rec.State)
			default:
				require.ErrorIs(t, err, guard.ErrNotFound, id)
			}
		}
	})
}

// claimBehind claims while another transaction has made a change; it commits once the claim waits.
func (db *database) claimBehind(t *testing.T, g guard.Guard, ref guard.Ref, change string) (rec guard.Record, claimErr error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan struct{})
	db.in(t, func(_ context.Context, holder endstate.Tx) {
		_, err := holder.Exec(ctx, change)
		require.NoError(t, err)
		tx, err := db.begin(ctx)
		require.NoError(t, err)
		var pid int
		require.NoError(t, tx.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid))
		go func() {
			defer close(done)
			defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
			rec, claimErr = g.Claim(ctx, tx, ref)
		}()
		for !one[bool](t, db, "SELECT cardinality(pg_blocking_pids($1)) > 0", pid) {
			require.NoError(t, ctx.Err(), "the claim does not wait")
		}
	})
	<-done
	return rec, claimErr
}

// F6: in a caller's stricter transaction a race ends in 40001, never in a second win.
func TestRacesUnderStricterIsolation(t *testing.T) {
	t.Parallel()
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(level), func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, "pgx")
			db.migrate(t, guard.Ledger{})
			s := db.status(t, "batches", "b1", "b2", "b3")
			for i, g := range []guard.Guard{s, guard.Ledger{}, guard.All(s, guard.Ledger{})} {
				ref := batch(guard.Text(fmt.Sprint("b", i+1)))
				ctx := t.Context()
				late, err := db.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
				require.NoError(t, err)
				_, err = late.Exec(ctx, "SELECT FROM batches") // its snapshot is taken
				require.NoError(t, err)
				_, err = db.settle(t, g, ref, "COMPLETE_STABLE")
				require.NoError(t, err)
				rec, err := g.Claim(ctx, late, ref)
				if err == nil && !rec.Final {
					_, err = g.Settle(ctx, late, ref, transition("ERROR_PROCESSING"))
				}
				require.Equal(t, "40001", sqltx.State(err), "%T: %v", g, err)
				require.NoError(t, late.Rollback(ctx))
			}
		})
	}
}
