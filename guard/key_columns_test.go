package guard_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// keyedColumn is a type of key column, with its values as SQL of a number n and as keys.
type keyedColumn struct {
	sqlType, value string
	key            func(n int) guard.Key
}

func moment(n int) time.Time {
	return time.Date(2026, 1, 1, 0, 0, 0, 123456000, time.UTC).Add(time.Duration(n) * 7 * time.Hour)
}

var keyedColumns = []keyedColumn{
	{"text", "'k' || n", func(n int) guard.Key { return guard.Text(fmt.Sprint("k", n)) }},
	{"varchar(40)", "'k' || n", func(n int) guard.Key { return guard.Text(fmt.Sprint("k", n)) }},
	{"char(12)", "'k' || n", func(n int) guard.Key { return guard.Text(fmt.Sprint("k", n)) }},
	{"name", "'k' || n", func(n int) guard.Key { return guard.Text(fmt.Sprint("k", n)) }},
	{"code", "'k' || n", func(n int) guard.Key { return guard.Text(fmt.Sprint("k", n)) }},
	{"padded", "'k' || n", func(n int) guard.Key { return guard.Text(fmt.Sprint("k", n)) }},
	{"smallint", "n", func(n int) guard.Key { return guard.Int(int64(n)) }},
	{"int", "n", func(n int) guard.Key { return guard.Int(int64(n)) }},
	{"bigint", "n", func(n int) guard.Key { return guard.Int(int64(n)) }},
	{"numeric(12)", "n", func(n int) guard.Key { return guard.Int(int64(n)) }},
	{"positive", "n", func(n int) guard.Key { return guard.Int(int64(n)) }},
	{"uuid", "lpad(n::text, 32, '0')::uuid", func(n int) guard.Key { return guard.UUID(uuid.MustParse(fmt.Sprintf("%032d", n))) }},
	{"ident", "lpad(n::text, 32, '0')::uuid", func(n int) guard.Key { return guard.UUID(uuid.MustParse(fmt.Sprintf("%032d", n))) }},
	{"timestamptz", "'2026-01-01 00:00:00.123456Z'::timestamptz + n * interval '7 hours'", func(n int) guard.Key { return guard.Time(moment(n).In(time.FixedZone("", 3600))) }},
	{"timestamp", "'2026-01-01 00:00:00.123456'::timestamp + n * interval '7 hours'", func(n int) guard.Key { return guard.Time(moment(n)) }},
	{"moment", "'2026-01-01 00:00:00.123456Z'::timestamptz + n * interval '7 hours'", func(n int) guard.Key { return guard.Time(moment(n)) }},
	{"date", "'2026-01-01'::date + n", func(n int) guard.Key {
		return guard.Date(time.Date(2026, 1, 1+n, 23, 0, 0, 0, time.FixedZone("", -7200)))
	}},
	{"day", "'2026-01-01'::date + n", func(n int) guard.Key {
		return guard.Date(time.Date(2026, 1, 1+n, 23, 0, 0, 0, time.FixedZone("", -7200)))
	}},
	{"bytea", `('\xff00' || lpad(to_hex(n), 4, '0'))::bytea`, func(n int) guard.Key { return guard.Bytes([]byte{0xff, 0, byte(n >> 8), byte(n)}) }},
}

// A key finds its row, by the index, whatever the column's type is precisely, in which way ever a driver sends it, and whatever
// the session's settings are. A key of another kind finds nothing: it is an error.
func TestKeysFindTheirRowsByTheIndex(t *testing.T) {
	t.Parallel()
	const rows = 3000
	url := dbtest.Postgres(t)
	pool := dbtest.PoolOn(t, url, func(c *pgxpool.Config) { c.MaxConns = 2 })
	exec := func(query string) { _, err := pool.Exec(t.Context(), query); require.NoError(t, err, query) }
	exec(`CREATE DOMAIN code AS text CHECK (VALUE <> ''); CREATE DOMAIN padded AS char(12); CREATE DOMAIN ident AS uuid; CREATE DOMAIN moment AS timestamptz;
CREATE DOMAIN day AS date; CREATE DOMAIN natural_number AS bigint; CREATE DOMAIN positive AS natural_number CHECK (VALUE > 0)`)
	columns := keyedColumns
	var citext bool
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext')").Scan(&citext))
	if citext { // it is an extension that not every build of PostgreSQL has
		exec("CREATE EXTENSION citext")
		columns = append(slices.Clone(columns), keyedColumn{"citext", columns[0].value, columns[0].key})
	}
	var guards []guard.Status
	for i, c := range columns {
		s := guard.Status{Table: fmt.Sprint("t", i), Key: "id", Column: "status", Terminal: terminal, Touched: "touched"}
		exec(fmt.Sprintf(`CREATE TABLE t%d (id %s PRIMARY KEY, status text, touched timestamptz)`, i, c.sqlType))
		exec(fmt.Sprintf(`INSERT INTO t%d SELECT %s, CASE WHEN n > 20 THEN 'COMPLETE' END FROM generate_series(1, %d) AS n`, i, c.value, rows))
		exec(fmt.Sprintf("ANALYZE t%d", i))
		require.NoError(t, s.Check(t.Context(), pool), c.sqlType)
		guards = append(guards, s)
	}
	settings := map[string]string{"timezone": "America/New_York", "datestyle": "SQL, DMY", "bytea_output": "escape"}
	ways := map[string]func(t *testing.T) (endstate.Querier, func(context.Context) (endstate.Tx, error)){
		"sql": func(t *testing.T) (endstate.Querier, func(context.Context) (endstate.Tx, error)) {
			db := dbtest.SQLOn(t, url+"&timezone=America/New_York")
			return sqltx.WrapDB(db, sqltx.Postgres), func(ctx context.Context) (endstate.Tx, error) {
				tx, err := db.BeginTx(ctx, nil)
				return endstate.PostgresTx(tx), err
			}
		},
	}
	for _, mode := range execModes {
		ways[mode.String()] = func(t *testing.T) (endstate.Querier, func(context.Context) (endstate.Tx, error)) {
			pool := dbtest.PoolOn(t, url, func(c *pgxpool.Config) {
				c.MaxConns, c.ConnConfig.DefaultQueryExecMode = 2, mode
				for name, value := range settings {
					c.ConnConfig.RuntimeParams[name] = value
				}
			})
			return pool, func(ctx context.Context) (endstate.Tx, error) { return pool.Begin(ctx) }
		}
	}
	for way, open := range ways {
		t.Run(strings.ReplaceAll(way, " ", "_"), func(t *testing.T) {
			t.Parallel()
			q, begin := open(t)
			for i, c := range columns {
				s := guards[i]
				for _, n := range []int{1, 20, rows} {
					rec, err := s.Read(t.Context(), q, batch(c.key(n)))
					require.NoError(t, err, "%s: %s", c.sqlType, c.key(n).Encode())
					require.Equal(t, n > 20, rec.Final)
				}
				_, err := s.Read(t.Context(), q, batch(c.key(rows+1)))
				require.ErrorIs(t, err, guard.ErrNotFound, c.sqlType)
				explained := &explainer{Querier: q}
				_, err = s.Read(t.Context(), explained, batch(c.key(1)))
				require.NoError(t, err)
				require.Contains(t, explained.plan, "Index Cond: (", c.sqlType)
				for _, other := range columns {
					if other.key(1).Shape() != c.key(1).Shape() {
						_, err := s.Read(t.Context(), q, batch(other.key(1)))
						require.Error(t, err, "%s in %s", other.key(1).Encode(), c.sqlType)
						require.NotErrorIs(t, err, guard.ErrNotFound, "%s in %s", other.key(1).Encode(), c.sqlType)
						err = s.CheckKey(t.Context(), q, other.key(1))
						require.ErrorIs(t, err, guard.ErrInvalidKey)
						require.ErrorContains(t, err, `column "id" of`)
					}
				}
				require.NoError(t, s.CheckKey(t.Context(), q, c.key(1)))
				found := map[guard.Key]bool{}
				for _, key := range due(t, s, q, time.Hour) {
					found[key] = true
				}
				require.Len(t, found, 20, c.sqlType)
				for n := range 20 {
					require.True(t, found[c.key(n+1)], "%s: %s", c.sqlType, c.key(n+1).Encode())
				}
				tx, err := begin(t.Context())
				require.NoError(t, err)
				_, err = s.Claim(t.Context(), tx, batch(c.key(2)))
				require.NoError(t, err, c.sqlType)
				rec, err := s.Settle(t.Context(), tx, batch(c.key(2)), transition("COMPLETE"))
				require.NoError(t, err, c.sqlType)
				require.Equal(t, "COMPLETE", rec.State)
				require.NoError(t, tx.Rollback(t.Context()))
			}
		})
	}
}

// The blanks with which PostgreSQL pads a char column are no part of the key, else one row would have several.
func TestPaddedKeysAreOne(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, func(t *testing.T, db *database) {
		db.exec(t, "CREATE TABLE batches (id char(8) PRIMARY KEY, status text)")
		db.exec(t, "INSERT INTO batches VALUES ('ab', NULL)")
		s := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: terminal}
		_, err := db.claim(t, s, batch(guard.Text("ab      ")))
		require.ErrorIs(t, err, guard.ErrNotFound)
		_, err = db.settle(t, s, batch(guard.Text("ab")), "COMPLETE_STABLE")
		require.NoError(t, err)
	})
}

// On SQLite, which has few types, a value's own type tells its kind.
func TestKeysOfEveryKindOnSQLite(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "sqlite-wal")
	db.exec(t, "CREATE TABLE batches (id PRIMARY KEY, status text, touched text)")
	s := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: terminal, Touched: "touched"}
	keys := []guard.Key{guard.Text("a"), guard.Int(1), guard.UUID(uuid.New()), guard.Time(moment(1)), guard.Date(moment(1)), guard.Bytes([]byte{0xff, 0})}
	for _, key := range keys {
		db.exec(t, "INSERT INTO batches (id) VALUES (?1)", key.Args()[0])
	}
	db.in(t, func(ctx context.Context, tx endstate.Tx) {
		require.ElementsMatch(t, []guard.Key{guard.Text("a"), guard.Int(1), guard.Text(keys[2].String()), guard.Text(keys[3].String()), guard.Text(keys[4].String()), keys[5]}, due(t, s, tx, time.Hour))
	})
	for _, key := range keys {
		_, err := db.settle(t, s, batch(key), "COMPLETE_STABLE")
		require.NoError(t, err, key.Encode())
	}
	_, err := db.claim(t, s, batch(guard.Bytes([]byte("a"))))
	require.ErrorIs(t, err, guard.ErrNotFound)
}

// A table that is partitioned by time has the time in its key; a claim looks into one partition, whatever the session's zone.
func TestATimePartitionedTableIsPruned(t *testing.T) {
	t.Parallel()
	for _, column := range []string{"timestamptz", "timestamp", "date"} {
		t.Run(column, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.Pool(t)
			exec := func(query string) { _, err := pool.Exec(t.Context(), query); require.NoError(t, err, query) }
			exec(fmt.Sprintf("CREATE TABLE jobs (id uuid, created %s, status text, PRIMARY KEY (id, created)) PARTITION BY RANGE (created)", column))
			for month := 1; month <= 6; month++ {
				exec(fmt.Sprintf("CREATE TABLE jobs_%[1]d PARTITION OF jobs FOR VALUES FROM ('2026-%02[1]d-01') TO ('2026-%02[2]d-01')", month, month+1))
			}
			at := time.Date(2026, 3, 31, 23, 59, 59, 999999000, time.UTC)
			id := uuid.New()
			_, err := pool.Exec(t.Context(), "INSERT INTO jobs VALUES ($1, $2, NULL)", id, at)
			require.NoError(t, err)
			key := guard.Composite(guard.UUID(id), guard.Time(at))
			if column == "date" {
				key = guard.Composite(guard.UUID(id), guard.Date(at))
			}
			s := guard.Status{Table: "jobs", Keys: []string{"id", "created"}, Column: "status", Terminal: terminal}
			require.NoError(t, s.Check(t.Context(), pool))
			explained := &explainer{Querier: pool}
			_, err = s.Read(t.Context(), explained, batch(key))
			require.NoError(t, err)
			require.Contains(t, explained.plan, "jobs_3")
			for _, other := range []string{"jobs_2", "jobs_4"} {
				require.NotContains(t, explained.plan, other)
			}
		})
	}
}
