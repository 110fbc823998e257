package guard_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/guard/guardtest"
)

// anomalies are the ways in which status and ledger can disagree, each made by somebody who bypassed a guard.
var anomalies = []struct {
	name           string
	status, ledger string // the states, empty for open
	fix            func(guard.Status) guard.Guard
}{
	{"status without ledger", "COMPLETE_STABLE", "", func(guard.Status) guard.Guard { return guard.Ledger{} }},
	{"ledger without status", "", "COMPLETE_STABLE", func(s guard.Status) guard.Guard { return s }},
	{"different states", "ERROR_PROCESSING", "COMPLETE_STABLE", nil},
}

// anomaly makes one for an aggregate.
func (db *database) anomaly(t *testing.T, s guard.Status, ref guard.Ref, status, ledger string) {
	t.Helper()
	if status != "" {
		_, err := db.settle(t, s, ref, status)
		require.NoError(t, err)
	}
	if ledger != "" {
		_, err := db.settle(t, guard.Ledger{}, ref, ledger)
		require.NoError(t, err)
	}
}

func TestAnomaliesAreTypedAndNothingIsWritten(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		db.migrate(t, guard.Ledger{})
		for _, tt := range anomalies {
			t.Run(tt.name, func(t *testing.T) {
				s := db.status(t, "t "+tt.name, tt.name)
				ref := batch(guard.Text(tt.name))
				db.anomaly(t, s, ref, tt.status, tt.ledger)
				before := db.rows(t, s, ref)
				for _, g := range []guard.Guard{guard.All(s, guard.Ledger{}), guard.All(guard.Ledger{}, s)} {
					_, err := db.claim(t, g, ref)
					requireAnomaly(t, err, g, ref, map[string]string{"status": tt.status, "ledger": tt.ledger})
					db.failing(t, func(ctx context.Context, tx endstate.Tx) {
						_, err := g.(guard.Reader).Read(ctx, tx, ref)
						requireAnomaly(t, err, g, ref, map[string]string{"status": tt.status, "ledger": tt.ledger})
						_, err = g.Settle(ctx, tx, ref, transition("COMPLETE_STABLE"))
						require.Error(t, err, "a settle without a claim is no win either")
					})
					require.Equal(t, before, db.rows(t, s, ref))
				}
			})
		}
	})
}

// rows is what the database has of an aggregate.
func (db *database) rows(t *testing.T, s guard.Status, ref guard.Ref) []guard.Record {
	t.Helper()
	var records []guard.Record
	db.failing(t, func(ctx context.Context, tx endstate.Tx) {
		for _, r := range []guard.Reader{s, guard.Ledger{}} {
			rec, err := r.Read(ctx, tx, ref)
			require.NoError(t, err)
			records = append(records, rec)
		}
	})
	return records
}

func requireAnomaly(t *testing.T, err error, g guard.Guard, ref guard.Ref, states map[string]string) {
	t.Helper()
	require.ErrorIs(t, err, guard.ErrAnomaly)
	require.NotErrorIs(t, err, guard.ErrNotOpen)
	require.NotErrorIs(t, err, guard.ErrNotFound)
	var anomaly *guard.AnomalyError
	require.ErrorAs(t, err, &anomaly)
	require.Equal(t, ref, anomaly.Ref)
	require.Len(t, anomaly.Records, 2)
	for _, r := range anomaly.Records {
		state := states[r.Guard[:6]] // "status …" or "ledger …"
		require.Equal(t, state != "", r.Record.Final, r.Guard)
		if state != "" {
			require.Equal(t, state, r.Record.State, r.Guard)
		}
		require.Contains(t, err.Error(), r.Guard)
	}
	require.Contains(t, err.Error(), ref.String())
}

// The recipe in AnomalyError's documentation: settle the guard that is open alone, in the other's state.
func TestAnomaliesCanBeFixed(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		db.migrate(t, guard.Ledger{})
		for _, tt := range anomalies {
			if tt.fix == nil {
				continue // two states: people must decide
			}
			t.Run(tt.name, func(t *testing.T) {
				s := db.status(t, "t "+tt.name, tt.name)
				ref, g := batch(guard.Text(tt.name)), guard.All(s, guard.Ledger{})
				db.anomaly(t, s, ref, tt.status, tt.ledger)
				_, err := db.claim(t, g, ref)
				var anomaly *guard.AnomalyError
				require.ErrorAs(t, err, &anomaly)
				var state string
				for _, r := range anomaly.Records {
					if r.Record.Final {
						state = r.Record.State
					}
				}
				_, err = db.settle(t, tt.fix(s), ref, state)
				require.NoError(t, err)
				rec, err := db.claim(t, g, ref)
				require.NoError(t, err)
				require.True(t, rec.Final)
				require.Equal(t, "COMPLETE_STABLE", rec.State)
				require.NotNil(t, rec.Provenance)
			})
		}
	})
}

// A guard of a service's own keeps its place in All: what it says counts as much as the others'.
func TestAllWithAnOwnGuard(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		db.migrate(t, guard.Ledger{})
		db.exec(t, "CREATE TABLE invoices (number bigint PRIMARY KEY, paid text)")
		var n counter
		g := guard.All(invoices{db.sqlite}, guard.Ledger{})
		require.False(t, g.(interface{ Readable() bool }).Readable(), "invoices has no Read")
		guardtest.Run(t, guardtest.Harness{
			Guard: g,
			Begin: db.begin,
			Open: func(t testing.TB) guard.Ref {
				i := n.next()
				db.exec(t, "INSERT INTO invoices VALUES ($1, NULL)", i)
				return guard.Ref{Aggregate: "invoice", Key: guard.Int(i)}
			},
			Absent:     func(testing.TB) guard.Ref { return guard.Ref{Aggregate: "invoice", Key: guard.Int(-1)} },
			States:     [2]string{"paid", "void"},
			Provenance: true,
		})
		ref := guard.Ref{Aggregate: "invoice", Key: guard.Int(-2)}
		db.exec(t, "INSERT INTO invoices VALUES (-2, 'paid')")
		_, err := db.claim(t, g, ref)
		var anomaly *guard.AnomalyError
		require.ErrorAs(t, err, &anomaly)
		require.Equal(t, "guard_test.invoices", anomaly.Records[0].Guard)
	})
}
