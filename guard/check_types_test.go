package guard_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
)

// What a guard could not work with is named by Check, with what to do.
func TestCheckNamesColumnsOfTheWrongType(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, func(t *testing.T, db *database) {
		db.exec(t, "CREATE TYPE stage AS ENUM ('OPEN', 'DONE')")
		db.exec(t, "CREATE DOMAIN staged AS stage")
		db.exec(t, "CREATE DOMAIN local AS timestamp")
		db.exec(t, "CREATE TYPE place AS (street text, number int)")
		for _, tt := range []struct {
			columns, says string
			change        func(*guard.Status)
		}{
			{"id interval PRIMARY KEY, status text", `key column "id" of table "t" is interval, for which there are no keys`, nil},
			{"id float8 PRIMARY KEY, status text", `key column "id" of table "t" is double precision`, nil},
			{"id numeric PRIMARY KEY, status text", `key column "id" of table "t" is numeric`, nil},
			{"id numeric(20,0) PRIMARY KEY, status text", `key column "id" of table "t" is numeric(20,0)`, nil},
			{"id place PRIMARY KEY, status text", `key column "id" of table "t" is place`, nil},
			{"id int[] PRIMARY KEY, status text", `key column "id" of table "t" is integer[]`, nil},
			{"id stage PRIMARY KEY, status text", `key column "id" of table "t" is stage`, nil},
			{"id int PRIMARY KEY, status text GENERATED ALWAYS AS (id::text) STORED", `column "status" is generated`, nil},
			{"id int PRIMARY KEY, status varchar(3)", `column "status" is character varying(3), and the terminal state "DONE" has 4 characters`, nil},
			{"id int PRIMARY KEY, status jsonb", `column "status" is jsonb; a status is text, varchar, char, an enum, an integer or a boolean`, nil},
			{"id int PRIMARY KEY, status int", `column "status" is integer, and the terminal state "DONE" is none of its values`, nil},
			{"id int PRIMARY KEY, status smallint", `the terminal state "70000" is none`, func(s *guard.Status) { s.Terminal = guard.Names("3", "70000") }},
			{"id int PRIMARY KEY, status smallint", `the terminal state "03" is none`, func(s *guard.Status) { s.Terminal = guard.Names("03") }},
			{"id int PRIMARY KEY, status smallint", `the terminal state "3" is none`, func(s *guard.Status) { s.Terminal = guard.Prefixes("3") }},
			{"id int PRIMARY KEY, status bool", `the terminal state "t" is none`, func(s *guard.Status) { s.Terminal = guard.Names("t") }},
			{"id int PRIMARY KEY, status stage", `which has no terminal state "FAILED"; it has OPEN, DONE`, func(s *guard.Status) { s.Terminal = guard.Names("DONE", "FAILED") }},
			{"id int PRIMARY KEY, status staged", `which has no terminal state "FAILED"`, func(s *guard.Status) { s.Terminal = guard.Names("FAILED") }},
			{"id int PRIMARY KEY, status text, at timestamp", `column "at", which is Status.Touched, has no time zone: make it a timestamptz, or leave Touched empty`, func(s *guard.Status) { s.Touched = "at" }},
			{"id int PRIMARY KEY, status text, at local", "has no time zone", func(s *guard.Status) { s.Touched = "at" }},
			{"id int PRIMARY KEY, status text, at date", `column "at", which is Status.Touched, is date and not a timestamptz`, func(s *guard.Status) { s.Touched = "at" }},
			{"id int PRIMARY KEY, status text, at timestamp", `column "at" has no time zone, so that guard.Now would be the session's time of day`, func(s *guard.Status) { s.Set = map[string]any{"at": guard.Now} }},
			{"id int PRIMARY KEY, status text, at timestamptz", `column "at" has a time zone, and guard.NowUTC is for one that hasn't`, func(s *guard.Status) { s.Set = map[string]any{"at": guard.NowUTC} }},
			{"id int PRIMARY KEY, status text, n int GENERATED ALWAYS AS IDENTITY", `column "n", which Status.Set names, is generated`, func(s *guard.Status) { s.Set = map[string]any{"n": 1} }},
		} {
			db.exec(t, "CREATE TABLE t ("+tt.columns+")")
			s := guard.Status{Table: "t", Key: "id", Column: "status", Terminal: guard.Names("DONE")}
			if tt.change != nil {
				tt.change(&s)
			}
			db.in(t, func(ctx context.Context, tx endstate.Tx) {
				err := s.Check(ctx, tx)
				require.ErrorIs(t, err, guard.ErrSchema, tt.columns)
				require.ErrorContains(t, err, tt.says)
				require.ErrorContains(t, err, "this table is the service's own")
			})
			db.exec(t, "DROP TABLE t")
		}
		db.exec(t, "CREATE TABLE t (id int PRIMARY KEY, status staged, at timestamptz, local timestamp)")
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			require.NoError(t, guard.Status{Table: "t", Key: "id", Column: "status", Terminal: guard.Names("DONE"), Touched: "at",
				Set: map[string]any{"at": guard.Now, "local": guard.NowUTC}}.Check(ctx, tx))
		})
	})
}

// A column without a time zone gets UTC by guard.NowUTC, whatever the session's time zone.
func TestNowUTC(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, func(t *testing.T, db *database) {
		db.exec(t, "CREATE TABLE t (id int PRIMARY KEY, status text, at timestamp)")
		db.exec(t, "INSERT INTO t VALUES (1)")
		s := guard.Status{Table: "t", Key: "id", Column: "status", Terminal: guard.Names("DONE"), Set: map[string]any{"at": guard.NowUTC}}
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			_, err := tx.Exec(ctx, "SET LOCAL timezone TO 'Asia/Tokyo'")
			require.NoError(t, err)
			_, err = s.Claim(ctx, tx, batch(guard.Int(1)))
			require.NoError(t, err)
			_, err = s.Settle(ctx, tx, batch(guard.Int(1)), transition("DONE"))
			require.NoError(t, err)
		})
		require.True(t, one[bool](t, db, "SELECT abs(extract(epoch FROM at - (clock_timestamp() AT TIME ZONE 'UTC'))) < 3600 FROM t"))
	})
}

// Idle rows are not missed, nor fresh ones found, because a session has another time zone: Due refuses such a column by itself.
func TestDueRefusesATouchedWithoutATimeZone(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, func(t *testing.T, db *database) {
		db.exec(t, "CREATE TABLE jobs (id int PRIMARY KEY, status text, touched timestamp)")
		db.exec(t, "INSERT INTO jobs VALUES (1, NULL, clock_timestamp() AT TIME ZONE 'UTC'), (2, NULL, (clock_timestamp() - interval '2 hours') AT TIME ZONE 'UTC')")
		s := guard.Status{Table: "jobs", Key: "id", Column: "status", Terminal: terminal, Touched: "touched"}
		find, err := s.Due(time.Hour)
		require.NoError(t, err)
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			n := 0
			for _, err := range find(ctx, tx) {
				require.ErrorIs(t, err, guard.ErrSchema)
				require.ErrorContains(t, err, "has no time zone")
				n++
			}
			require.Equal(t, 1, n)
		})
		for _, zone := range []string{"UTC", "Asia/Tokyo", "America/New_York"} {
			db.in(t, func(ctx context.Context, tx endstate.Tx) {
				_, err := tx.Exec(ctx, "SET LOCAL timezone TO '"+zone+"'")
				require.NoError(t, err)
				var keys []guard.Key
				for key, err := range s.DueWhere(`touched AT TIME ZONE 'UTC' < now() - interval '1 hour'`)(ctx, tx) {
					require.NoError(t, err)
					keys = append(keys, key)
				}
				require.Equal(t, []guard.Key{guard.Int(2)}, keys, zone)
			})
		}
	})
}

// A condition of the service's own finds what is due by the database's clock, in pages.
func TestDueWhere(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql", "sqlite-wal"}, func(t *testing.T, db *database) {
		now, past := "now()", "now() - interval '1 minute'"
		if db.sqlite {
			now, past = "datetime('now')", "datetime('now', '-1 minute')"
		}
		db.exec(t, "CREATE TABLE jobs (id bigint PRIMARY KEY, status text, due_at timestamptz)")
		var rows []string
		for n := range 1100 {
			id, due := "("+guard.Int(int64(n)).String(), past
			if n%11 == 0 {
				due = "NULL"
			}
			rows = append(rows, id+", CASE WHEN "+guard.Int(int64(n)).String()+" % 2 = 1 THEN 'ERROR' END, "+due+")")
		}
		db.exec(t, "INSERT INTO jobs VALUES "+strings.Join(rows, ", "))
		for _, states := range []guard.States{terminal, guard.Func(func(s string) bool { return s == "ERROR" })} {
			s := guard.Status{Table: "jobs", Key: "id", Column: "status", Terminal: states}
			db.in(t, func(ctx context.Context, tx endstate.Tx) {
				var keys []guard.Key
				for key, err := range s.DueWhere("due_at < "+now+" -- by the clock of the database")(ctx, tx) {
					require.NoError(t, err)
					keys = append(keys, key)
				}
				at := 0
				for n := 0; n < 1100; n += 2 {
					if n%11 != 0 {
						require.Equal(t, guard.Int(int64(n)), keys[at])
						at++
					}
				}
				require.Len(t, keys, at)
				for _, err := range (guard.Status{}).DueWhere("true")(ctx, tx) {
					require.ErrorIs(t, err, guard.ErrConfig)
				}
			})
		}
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			for range (guard.Status{Table: "jobs", Key: "id", Column: "status", Terminal: terminal}).DueWhere("due_at < "+now)(ctx, tx) {
				break // a caller may stop
			}
		})
	})
}
