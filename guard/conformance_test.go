package guard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/guard/guardtest"
	"github.com/endstate-go/endstate/internal/dbtest"
)

// keyed is a kind of key, with its columns' types on either database.
type keyed struct {
	name             string
	columns          []string
	postgres, sqlite []string // types
	key              func(n int64) guard.Key
}

func (k keyed) types(db *database) []string {
	if db.sqlite {
		return k.sqlite
	}
	return k.postgres
}

var (
	textKey   = keyed{"text", []string{"id"}, []string{"text"}, []string{"TEXT"}, func(n int64) guard.Key { return guard.Text(fmt.Sprint("b/", n)) }}
	numberKey = func(n int64) guard.Key { return guard.Int(n) }
	keys      = []keyed{
		textKey,
		{"varchar", []string{"id"}, []string{"varchar(40)"}, []string{"VARCHAR(40)"}, textKey.key},
		{"uuid", []string{"id"}, []string{"uuid"}, []string{"TEXT"}, func(n int64) guard.Key {
			return guard.UUID(uuid.NewSHA1(uuid.NameSpaceURL, fmt.Append(nil, n)))
		}},
		{"smallint", []string{"id"}, []string{"smallint"}, []string{"SMALLINT"}, numberKey},
		{"int", []string{"id"}, []string{"integer"}, []string{"INTEGER"}, numberKey},
		{"bigint", []string{"id"}, []string{"bigint"}, []string{"BIGINT"}, func(n int64) guard.Key { return guard.Int(-1<<62 - n) }},
		{"composite", []string{"tenant_id", "id"}, []string{"uuid", "bigint"}, []string{"TEXT", "BIGINT"}, func(n int64) guard.Key {
			return guard.Composite(guard.UUID(uuid.NameSpaceDNS), guard.Int(n))
		}},
	}
	names = guard.Names("COMPLETE_STABLE", "COMPLETE_MAX_COMPARISONS", "ERROR_PROCESSING")
	fn    = guard.Func(func(state string) bool {
		return strings.HasPrefix(state, "COMPLETE") || strings.HasPrefix(state, "ERROR")
	})
)

// harness makes a status table and returns what tests a guard over it, which guarded makes of the status.
func (db *database) harness(t *testing.T, k keyed, statusType string, states guard.States, guarded func(guard.Status) guard.Guard) guardtest.Harness {
	t.Helper()
	table := strings.NewReplacer("/", "_", " ", "_").Replace(t.Name())
	table = table[max(0, len(table)-60):]
	columns := make([]string, len(k.columns))
	for i, c := range k.columns {
		columns[i] = c + " " + k.types(db)[i] + " NOT NULL"
	}
	db.exec(t, fmt.Sprintf(`CREATE TABLE "%s" (%s, status %s, PRIMARY KEY (%s))`, table, strings.Join(columns, ", "), statusType, strings.Join(k.columns, ", ")))
	s := guard.Status{Table: table, Keys: k.columns, Column: "status", Terminal: states}
	var n counter
	return guardtest.Harness{
		Guard: guarded(s),
		Begin: db.begin,
		Open: func(t testing.TB) guard.Ref {
			i := n.next()
			key, status := k.key(i), "'PENDING'"
			if i%3 == 0 {
				status = "NULL" // is open too
			}
			placeholders := "$1"
			if len(k.columns) == 2 {
				placeholders = "$1, $2"
			}
			db.exec(t, fmt.Sprintf(`INSERT INTO "%s" (%s, status) VALUES (%s, %s)`, table, strings.Join(k.columns, ", "), placeholders, status), key.Args()...)
			return batch(key)
		},
		Absent:      func(testing.TB) guard.Ref { return batch(k.key(30_000)) },
		States:      [2]string{"COMPLETE_STABLE", "ERROR_PROCESSING"},
		NotTerminal: "PENDING",
	}
}

func alone(s guard.Status) guard.Guard { return s }

func TestStatusKeepsTheContract(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		for _, k := range keys {
			t.Run("key/"+k.name, func(t *testing.T) { guardtest.Run(t, db.harness(t, k, "text", terminal, alone)) })
		}
		for _, column := range []string{"varchar(40)", "state"} {
			if column == "state" {
				if db.sqlite {
					continue // SQLite has no enums
				}
				db.exec(t, "CREATE TYPE state AS ENUM ('PENDING', 'COMPLETE_STABLE', 'ERROR_PROCESSING')")
			}
			for name, states := range map[string]guard.States{"prefixes": terminal, "names": names, "func": fn} {
				t.Run("column/"+column+"/"+name, func(t *testing.T) { guardtest.Run(t, db.harness(t, textKey, column, states, alone)) })
			}
		}
		t.Run("names", func(t *testing.T) { guardtest.Run(t, db.harness(t, textKey, "text", names, alone)) })
		t.Run("func", func(t *testing.T) { guardtest.Run(t, db.harness(t, textKey, "text", fn, alone)) })
		t.Run("set", func(t *testing.T) {
			guardtest.Run(t, db.harness(t, textKey, "text, at text, by_whom text, note text", terminal, func(s guard.Status) guard.Guard {
				s.Set = map[string]any{"at": "now", "by_whom": guard.By, "note": nil}
				return s
			}))
		})
	})
}

func TestLedgerKeepsTheContract(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		renamed := guard.Ledger{Schema: `Own "Schema"`, Table: `The 'Ledger', "v2"`}
		if db.sqlite {
			renamed.Schema = "main"
		}
		for name, l := range map[string]guard.Ledger{"default": {}, "renamed": renamed} {
			if name == "renamed" && !dbtest.Apostrophes() {
				continue
			}
			t.Run(name, func(t *testing.T) {
				db.migrate(t, l)
				var n counter
				guardtest.Run(t, guardtest.Harness{
					Guard:      l,
					Begin:      db.begin,
					Open:       func(testing.TB) guard.Ref { return batch(guard.Int(n.next())) },
					States:     states,
					Provenance: true,
				})
			})
		}
	})
}

func TestAllKeepsTheContract(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		db.migrate(t, guard.Ledger{})
		for name, guarded := range map[string]func(guard.Status) guard.Guard{
			"status and ledger": func(s guard.Status) guard.Guard { return guard.All(s, guard.Ledger{}) },
			"ledger and status": func(s guard.Status) guard.Guard { return guard.All(guard.Ledger{}, s) },
			"nested":            func(s guard.Status) guard.Guard { return guard.All(guard.All(s), guard.All(guard.Ledger{})) },
		} {
			t.Run(name, func(t *testing.T) {
				k := textKey
				k.key = func(n int64) guard.Key { return guard.Text(fmt.Sprint(name, n)) } // one ledger for all of these tables
				h := db.harness(t, k, "text", terminal, guarded)
				h.Provenance = true
				guardtest.Run(t, h)
			})
		}
		t.Run("with func", func(t *testing.T) {
			k := textKey
			k.key = func(n int64) guard.Key { return guard.Text(fmt.Sprint("func", n)) }
			h := db.harness(t, k, "text", fn, func(s guard.Status) guard.Guard { return guard.All(s, guard.Ledger{}) })
			h.Provenance = true
			guardtest.Run(t, h)
		})
	})
}

func TestOwnGuardKeepsTheContract(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		var n counter
		db.exec(t, "CREATE TABLE invoices (number bigint PRIMARY KEY, paid text)")
		h := guardtest.Harness{
			Guard: invoices{db.sqlite},
			Begin: db.begin,
			Open: func(t testing.TB) guard.Ref {
				i := n.next()
				db.exec(t, "INSERT INTO invoices VALUES ($1, NULL)", i)
				return guard.Ref{Aggregate: "invoice", Key: guard.Int(i)}
			},
			Absent:      func(testing.TB) guard.Ref { return guard.Ref{Aggregate: "invoice", Key: guard.Int(-1)} },
			States:      [2]string{"paid", "void"},
			NotTerminal: "sent",
		}
		guardtest.Run(t, h)
	})
}

// F22: every way that pgx has to send a statement gives the same results.
func TestGuardsInEveryExecMode(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.migrate(t, guard.Ledger{})
	db.exec(t, "CREATE TYPE state AS ENUM ('PENDING', 'COMPLETE_STABLE', 'ERROR_PROCESSING')")
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			db := &database{t: t, name: "pgx", begin: guardtest.Pgx(poolInMode(t, db.pool, mode)), pool: db.pool}
			k := keys[6] // composite: uuid and bigint
			k.key = func(n int64) guard.Key {
				return guard.Composite(guard.UUID(uuid.NewSHA1(uuid.NameSpaceDNS, []byte(mode.String()))), guard.Int(n))
			}
			h := db.harness(t, k, "state, at timestamptz, by_whom text, tries smallint", names, func(s guard.Status) guard.Guard {
				s.Set = map[string]any{"at": guard.Now, "by_whom": guard.By, "tries": 3}
				return guard.All(s, guard.Ledger{})
			})
			h.Provenance = true
			guardtest.Run(t, h)
		})
	}
}

// invoices is a guard that a service wrote by hand: two methods.
type invoices struct{ sqlite bool }

func (g invoices) Claim(ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
	if g.sqlite {
		if _, err := tx.Exec(ctx, "UPDATE invoices SET paid = paid WHERE 0"); err != nil {
			return guard.Record{}, err
		}
	} else if _, err := tx.Exec(ctx, "SELECT FROM invoices WHERE number = $1 AND paid IS NULL FOR NO KEY UPDATE", ref.Key.Args()...); err != nil {
		return guard.Record{}, err
	}
	// Under READ COMMITTED this statement sees what the lock waited for.
	var paid []string
	rows, err := tx.Query(ctx, "SELECT coalesce(paid, '') FROM invoices WHERE number = $1", ref.Key.Args()...)
	if err != nil {
		return guard.Record{}, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return guard.Record{}, err
		}
		paid = append(paid, s)
	}
	if err := rows.Err(); err != nil {
		return guard.Record{}, err
	}
	if len(paid) == 0 {
		return guard.Record{}, fmt.Errorf("%w: no invoice %v", guard.ErrNotFound, ref.Key)
	}
	return guard.Record{Final: paid[0] != "", State: paid[0]}, nil
}

func (g invoices) Settle(ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
	if to.State != "paid" && to.State != "void" {
		return guard.Record{}, fmt.Errorf("%w: %q", guard.ErrNotTerminal, to.State)
	}
	tag, err := tx.Exec(ctx, "UPDATE invoices SET paid = $1 WHERE number = $2 AND paid IS NULL", append([]any{to.State}, ref.Key.Args()...)...)
	if err == nil && tag.RowsAffected() == 0 {
		err = fmt.Errorf("%w: invoice %v", guard.ErrNotOpen, ref.Key)
	}
	return guard.Record{Final: true, State: to.State}, err
}
