package finalize_test

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// tableKind is a table that a service may have, or what stands in for one: jobs, with an id and a status, open in the rows 1 to 8.
type tableKind struct {
	create  string
	state   string // the terminal one; DONE if it is empty
	checks  string // what Check says against it, if it does
	refused string // what each call says instead of winning
}

const (
	openRows  = "SELECT n, 'OPEN' FROM generate_series(1, 8) AS n"
	baseTable = "CREATE TABLE base (id int PRIMARY KEY, status text); INSERT INTO base " + openRows + "; "
	insteadOf = "CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN %s END $$; CREATE TRIGGER instead INSTEAD OF UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION instead()"
)

var tableKinds = map[string]tableKind{
	"a table":             {create: "CREATE TABLE jobs (id int PRIMARY KEY, status text); INSERT INTO jobs " + openRows},
	"a view":              {create: baseTable + "CREATE VIEW jobs AS SELECT id, status FROM base"},
	"a view with a check": {create: baseTable + "CREATE VIEW jobs AS SELECT id, status FROM base WHERE id > 0 WITH CHECK OPTION"},
	"a view of open rows with a check": {create: baseTable + "CREATE VIEW jobs AS SELECT id, status FROM base WHERE status = 'OPEN' WITH CHECK OPTION",
		refused: `new row violates check option for view "jobs"`},
	"a view of open rows": {create: baseTable + "CREATE VIEW jobs AS SELECT id, status FROM base WHERE status = 'OPEN'", refused: "or, if that is a view, whether it shows such rows"},
	"a view with a trigger": {create: baseTable + "CREATE VIEW jobs AS SELECT id, status FROM base; " +
		fmt.Sprintf(insteadOf, "UPDATE base SET status = NEW.status WHERE id = NEW.id; RETURN NEW;")},
	"a view with a trigger that does nothing": {create: baseTable + "CREATE VIEW jobs AS SELECT id, status FROM base; " + fmt.Sprintf(insteadOf, "RETURN NEW;"),
		refused: `was moved to "DONE" and says "OPEN"`},
	"a view with a trigger that refuses": {create: baseTable + "CREATE VIEW jobs AS SELECT id, status FROM base; " + fmt.Sprintf(insteadOf, "RETURN NULL;"),
		refused: `is open ("OPEN") and its row took no update`},
	"a view with rules": {create: baseTable + `CREATE VIEW jobs AS SELECT id, upper(status) AS status FROM base;
		CREATE RULE updates AS ON UPDATE TO jobs DO INSTEAD UPDATE base SET status = NEW.status WHERE id = OLD.id; CREATE RULE deletes AS ON DELETE TO jobs DO INSTEAD NOTHING`},
	"a view of a table with a rule": {create: baseTable + `CREATE TABLE audit (id int); CREATE RULE note AS ON UPDATE TO base DO ALSO INSERT INTO audit VALUES (NEW.id); CREATE VIEW jobs AS SELECT id, status FROM base`},
	"a view that can't be updated": {create: baseTable + "CREATE VIEW jobs AS SELECT id, max(status) AS status FROM base GROUP BY id",
		checks: `is a view of which PostgreSQL can't update the column "status" by itself`, refused: "guard the table that it is made of"},
	"a materialized view": {create: baseTable + "CREATE MATERIALIZED VIEW jobs AS SELECT id, status FROM base; CREATE UNIQUE INDEX ON jobs (id)",
		checks: "is a materialized view, which nothing updates", refused: "guard the table that has the status"},
	"a foreign table": {create: "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing; CREATE FOREIGN TABLE jobs (id int, status text) SERVER elsewhere",
		checks: "is a foreign table, whose server would commit apart from the events", refused: "finalize on that server"},
	"partitioned by its key": {create: "CREATE TABLE jobs (id int PRIMARY KEY, status text) PARTITION BY HASH (id); CREATE TABLE even PARTITION OF jobs FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE odd PARTITION OF jobs FOR VALUES WITH (MODULUS 2, REMAINDER 1); INSERT INTO jobs " + openRows},
	"partitioned by its status": {create: "CREATE TABLE jobs (id int, status text, PRIMARY KEY (id, status)) PARTITION BY LIST (status); CREATE TABLE opened PARTITION OF jobs FOR VALUES IN ('OPEN'); CREATE TABLE ended PARTITION OF jobs DEFAULT; INSERT INTO jobs " + openRows,
		checks: "has no unique index over its key columns alone"},
	"a table from which another inherits": {create: "CREATE TABLE jobs (id int PRIMARY KEY, status text); CREATE TABLE more (PRIMARY KEY (id)) INHERITS (jobs); INSERT INTO jobs SELECT n, 'OPEN' FROM generate_series(1, 4) AS n; INSERT INTO more SELECT n, 'OPEN' FROM generate_series(5, 8) AS n",
		checks: "is a table from which others inherit"},
	"an unlogged table":               {create: "CREATE UNLOGGED TABLE jobs (id int PRIMARY KEY, status text); INSERT INTO jobs " + openRows, checks: "is UNLOGGED: a crash empties it"},
	"a status of a domain":            {create: "CREATE DOMAIN progress AS text CHECK (VALUE IN ('OPEN', 'DONE')); CREATE TABLE jobs (id int PRIMARY KEY, status progress); INSERT INTO jobs " + openRows},
	"a status of a domain of an enum": {create: "CREATE TYPE stage AS ENUM ('OPEN', 'DONE'); CREATE DOMAIN progress AS stage; CREATE TABLE jobs (id int PRIMARY KEY, status progress); INSERT INTO jobs SELECT n, 'OPEN' FROM generate_series(1, 8) AS n"},
	"a padded status":                 {create: "CREATE TABLE jobs (id int PRIMARY KEY, status char(9)); INSERT INTO jobs " + openRows},
	"a status that is a number":       {create: "CREATE TABLE jobs (id int PRIMARY KEY, status smallint); INSERT INTO jobs SELECT n, 0 FROM generate_series(1, 8) AS n", state: "3"},
	"a status that is yes or no":      {create: "CREATE TABLE jobs (id int PRIMARY KEY, status bool DEFAULT false); INSERT INTO jobs SELECT n FROM generate_series(1, 8) AS n", state: "true"},
	"a generated status": {create: "CREATE TABLE jobs (id int PRIMARY KEY, done bool, status text GENERATED ALWAYS AS (CASE WHEN done THEN 'DONE' ELSE 'OPEN' END) STORED); INSERT INTO jobs (id) SELECT n FROM generate_series(1, 8) AS n",
		checks: `column "status" is generated`, refused: "no UPDATE can set it"},
	"a deferred trigger that refuses": {create: `CREATE TABLE jobs (id int PRIMARY KEY, status text); INSERT INTO jobs ` + openRows + `;
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today' USING ERRCODE = 'check_violation'; END $$;
		CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`, refused: "not today"},
}

// F32: whatever the aggregates' table is, each is won once, in every way there is and by all of them at once, or every call says what is
// wrong, and changes nothing.
func TestTablesOfEveryKind(t *testing.T) {
	t.Parallel()
	for name, kind := range tableKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			pool, db := dbtest.PoolOn(t, url, func(c *pgxpool.Config) { c.MaxConns = 8 }), dbtest.SQLOn(t, url)
			db.SetMaxOpenConns(8)
			_, err := db.ExecContext(t.Context(), kind.create)
			require.NoError(t, err)
			fin, err := finalize.New(pool, kind.config())
			require.NoError(t, err)
			onPgx := func(cfg *finalize.Config) (*finalize.Finalizer[pgx.Tx], error) { return finalize.New(pool, cfg) }
			onSQL := func(cfg *finalize.Config) (*finalize.Finalizer[*sql.Tx], error) { return finalize.NewSQL(db, cfg) }
			doors := append(doorsOf(t, "pgx", kind, onPgx, pool.Begin, func(tx pgx.Tx, commit bool) error {
				if commit {
					return tx.Commit(t.Context())
				}
				return tx.Rollback(t.Context())
			}), doorsOf(t, "sql", kind, onSQL, func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) }, endSQL)...)
			require.NoError(t, fin.Migrate(t.Context()))
			kind.test(t, db, fin.Check(t.Context()), doors)
		})
	}
}

// F32: a trigger that updates in a view's place gets a row as the statement saw it when it began, though another one has won it since: that
// the row is open has to be known by its lock.
func TestTwoBulksInAViewsTrigger(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	// Whoever comes first waits for another one, but not for long.
	_, err := pool.Exec(t.Context(), baseTable+"CREATE VIEW jobs AS SELECT id, status FROM base; CREATE SEQUENCE entered; "+fmt.Sprintf(insteadOf, `
		PERFORM nextval('entered');
		FOR i IN 1..200 LOOP EXIT WHEN (SELECT last_value % 2 = 0 FROM entered); PERFORM pg_sleep(0.001); END LOOP;
		UPDATE base SET status = NEW.status WHERE id = NEW.id;
		RETURN NEW;`))
	require.NoError(t, err)
	var fins []*finalize.Finalizer[pgx.Tx]
	for range 2 {
		fin, err := finalize.New(pool, tableKind{}.config())
		require.NoError(t, err)
		require.NoError(t, fin.Migrate(t.Context()))
		fins = append(fins, fin)
	}
	for n := range 8 {
		var wins atomic.Int32
		dbtest.AtOnce(len(fins), func(i int) {
			results, err := fins[i].SettleMany(t.Context(), "test", []finalize.Item{{Key: guard.Int(int64(n + 1)), Outcome: finalize.Outcome{State: "DONE"}}})
			if err != nil {
				t.Error(err)
			} else if results[0].Receipt.Won {
				wins.Add(1)
			}
		})
		require.EqualValues(t, 1, wins.Load())
	}
}

// The same as with PostgreSQL, with what SQLite has of these.
func TestTablesOfEveryKindOnSQLite(t *testing.T) {
	t.Parallel()
	const eight = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 8) INSERT INTO jobs (id) SELECT n FROM n"
	for name, kind := range map[string]tableKind{
		"a table without rowids": {create: "CREATE TABLE jobs (id INTEGER PRIMARY KEY, status TEXT DEFAULT 'OPEN') WITHOUT ROWID, STRICT; " + eight},
		"a generated key":        {create: "CREATE TABLE jobs (n INTEGER PRIMARY KEY, id INTEGER GENERATED ALWAYS AS (n) STORED UNIQUE, status TEXT DEFAULT 'OPEN'); " + strings.Replace(eight, "(id)", "(n)", 1)},
		"a generated status": {create: "CREATE TABLE jobs (id INTEGER PRIMARY KEY, status TEXT GENERATED ALWAYS AS ('OPEN') VIRTUAL); " + eight,
			checks: `column "status" is generated: no UPDATE can set it`, refused: "no UPDATE can set it"},
		"a view with a trigger": {create: "CREATE TABLE base (id INTEGER PRIMARY KEY, status TEXT DEFAULT 'OPEN'); " + strings.Replace(eight, "jobs", "base", 1) + `; CREATE VIEW jobs AS SELECT id, status FROM base;
			CREATE TRIGGER instead INSTEAD OF UPDATE ON jobs BEGIN UPDATE base SET status = NEW.status WHERE id = NEW.id; END`,
			checks: "is a view, of which SQLite doesn't count what is updated", refused: "in this transaction"},
		"a trigger that ignores the update": {create: "CREATE TABLE jobs (id INTEGER PRIMARY KEY, status TEXT DEFAULT 'OPEN'); " + eight + "; CREATE TRIGGER ignore BEFORE UPDATE ON jobs BEGIN SELECT RAISE(IGNORE); END",
			refused: `is open ("OPEN") and its row took no update`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := dbtest.SQLite(t)
			_, err := db.ExecContext(t.Context(), kind.create)
			require.NoError(t, err)
			onSQL := func(cfg *finalize.Config) (*finalize.Finalizer[*sql.Tx], error) { return finalize.NewSQL(db, cfg) }
			fin, err := onSQL(kind.config())
			require.NoError(t, err)
			require.NoError(t, fin.Migrate(t.Context()))
			kind.test(t, db, fin.Check(t.Context()), doorsOf(t, "sqlite", kind, onSQL, func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) }, endSQL))
		})
	}
}

func (k tableKind) final() string {
	if k.state == "" {
		return "DONE"
	}
	return k.state
}

func (k tableKind) config() *finalize.Config {
	return &finalize.Config{Aggregate: "job", Logger: discard(), Cache: finalize.CacheConfig{Off: true},
		Guard: guard.Status{Table: "jobs", Key: "id", Column: "status", Terminal: guard.Names(k.final())}}
}

// test goes through all doors at once, each for all rows, or through one after the other, where they are closed.
func (k tableKind) test(t *testing.T, db *sql.DB, checked error, doors []doorCall) {
	if k.checks == "" {
		require.NoError(t, checked)
	} else {
		require.ErrorIs(t, checked, guard.ErrSchema)
		require.ErrorContains(t, checked, k.checks)
	}
	count := func(query string) (n int) {
		require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&n))
		return n
	}
	if k.refused != "" {
		for _, d := range doors {
			for _, r := range d.call(1) {
				require.ErrorContains(t, r.Err, k.refused, d.name)
				require.NotErrorIs(t, r.Err, finalize.ErrOutcomeUnknown, d.name)
				require.NotErrorIs(t, r.Err, finalize.ErrBusy, d.name)
				require.False(t, r.Receipt.Won, d.name)
			}
		}
		require.Zero(t, count("SELECT count(*) FROM endstate_outbox"))
		if !strings.Contains(k.create, "FOREIGN TABLE") {
			require.Equal(t, 8, count("SELECT count(*) FROM jobs WHERE status = 'OPEN'"))
		}
		return
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	wins := map[int]int{}
	for _, d := range doors {
		all.Go(func() {
			for first := range 8 {
				for i, r := range d.call(first + 1) {
					if r.Err != nil || r.Receipt.State != k.final() {
						t.Errorf("%s, row %d: %q, %v", d.name, first+1+i, r.Receipt.State, r.Err)
					}
					if r.Receipt.Won {
						mu.Lock()
						wins[first+1+i]++
						mu.Unlock()
					}
				}
			}
		})
	}
	all.Wait()
	for n := range 8 {
		require.Equal(t, 1, wins[n+1], "wins of row %d", n+1)
	}
	require.Equal(t, 8, count("SELECT count(*) FROM jobs WHERE CAST(status AS text) = '"+k.final()+"'"))
	require.Equal(t, 8, count("SELECT count(*) FROM endstate_outbox"))
}

// doorCall finalizes the row n, or all from n on.
type doorCall struct {
	name string
	call func(n int) []finalize.Result
}

// doorsOf are all the ways through finalizers, each of which has one of its own, lest they take turns. Each has an event of its own, too:
// nobody else's dedup key stands in for the guard.
func doorsOf[Tx any](t *testing.T, by string, k tableKind, open func(*finalize.Config) (*finalize.Finalizer[Tx], error), begin func(context.Context) (Tx, error), end func(tx Tx, commit bool) error) []doorCall {
	ctx := t.Context()
	var doors []doorCall
	var failed error
	add := func(name string, call func(fin *finalize.Finalizer[Tx], n int, outcome finalize.Outcome) []finalize.Result) {
		cfg := k.config()
		cfg.Trace = &finalize.Trace{Failed: func(_ context.Context, _ finalize.Call, err error) {
			if name == "Sweep" { // which only counts them
				failed = err
			}
		}}
		cfg.Group = finalize.GroupConfig{Off: name != "gathered", Wait: 5 * time.Millisecond}
		fin, err := open(cfg)
		require.NoError(t, err)
		outcome := finalize.Outcome{State: k.final(), Events: []outbox.Event{{Type: by + " " + name, Payload: []byte(`{}`)}}}
		doors = append(doors, doorCall{by + " " + name, func(n int) []finalize.Result { return call(fin, n, outcome) }})
	}
	one := func(r finalize.Receipt, err error) []finalize.Result {
		return []finalize.Result{{Receipt: r, Err: err}}
	}
	key := func(n int) guard.Key { return guard.Int(int64(n)) }
	fn := func(outcome finalize.Outcome) finalize.Func[Tx] {
		return func(context.Context, Tx) (finalize.Outcome, error) { return outcome, nil }
	}
	add("Do", func(fin *finalize.Finalizer[Tx], n int, outcome finalize.Outcome) []finalize.Result {
		return one(fin.Do(ctx, key(n), "test", fn(outcome)))
	})
	add("Settle", func(fin *finalize.Finalizer[Tx], n int, outcome finalize.Outcome) []finalize.Result {
		return one(fin.Settle(ctx, key(n), "test", outcome))
	})
	for _, name := range []string{"SettleMany", "SettleMany beside it"} {
		add(name, func(fin *finalize.Finalizer[Tx], n int, outcome finalize.Outcome) []finalize.Result {
			var items []finalize.Item
			for ; n <= 8; n++ {
				items = append(items, finalize.Item{Key: key(n), Outcome: outcome})
			}
			results, _ := fin.SettleMany(ctx, "test", items)
			return results
		})
	}
	add("gathered", func(fin *finalize.Finalizer[Tx], n int, outcome finalize.Outcome) []finalize.Result {
		results := make([]finalize.Result, 9-n)
		var all sync.WaitGroup
		for i := range results {
			all.Go(func() { results[i] = one(fin.Settle(ctx, key(n+i), "test", outcome))[0] })
		}
		all.Wait()
		return results
	})
	add("DoTx", func(fin *finalize.Finalizer[Tx], n int, outcome finalize.Outcome) []finalize.Result {
		for {
			tx, err := begin(ctx)
			if err != nil {
				return one(finalize.Receipt{}, err)
			}
			r, err := fin.DoTx(ctx, tx, key(n), "test", fn(outcome))
			if err != nil {
				_ = end(tx, false)
			} else if err = end(tx, true); err != nil {
				r = finalize.Receipt{}
			}
			if !sqltx.Conflicted(err) { // which only the caller can run again
				return one(r, err)
			}
		}
	})
	add("Sweep", func(fin *finalize.Finalizer[Tx], n int, outcome finalize.Outcome) []finalize.Result {
		due := func(context.Context, endstate.Querier) iter.Seq2[guard.Key, error] {
			return func(yield func(guard.Key, error) bool) { yield(key(n), nil) }
		}
		var got finalize.Result
		sweeper, err := finalize.NewSweeper(fin, func(context.Context, Tx, guard.Key) (finalize.Outcome, error) { return outcome, nil }, &finalize.SweeperConfig{Due: due})
		require.NoError(t, err)
		swept := sweeper.Sweep(ctx)
		if got = (finalize.Result{Err: swept.Err}); swept.Failed > 0 {
			got.Err = failed
		}
		if got.Receipt.Won = swept.Won == 1; swept.Won+swept.Lost == 1 {
			got.Receipt.State = k.final()
		}
		return []finalize.Result{got}
	})
	return doors
}

func endSQL(tx *sql.Tx, commit bool) error {
	if commit {
		return tx.Commit()
	}
	return tx.Rollback()
}
