// Package guardtest tests whether a guard keeps the contract of guard.Guard, on a real database:
//
//	func TestMyGuard(t *testing.T) {
//		guardtest.Run(t, guardtest.Harness{Guard: myGuard{}, Begin: guardtest.Pgx(pool), Open: newOrder, States: [2]string{"PAID", "VOID"}})
//	}
//
// It checks that a second claim waits for the first and then sees what was committed; that the claim of a final aggregate
// returns its record, writes nothing and locks nothing; that Settle compares and sets; that a rollback leaves the aggregate
// open; and that of many transactions which race for one aggregate exactly one settles it. It never sleeps: a transaction
// that should wait is seen waiting.
package guardtest

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Harness is what Run needs to know. Guard, Begin, Open and States are required.
type Harness struct {
	// Guard is the guard to test. Its tables are there.
	Guard guard.Guard
	// Begin starts a READ COMMITTED transaction, on a connection of its own; Pgx and SQL make it. At least three must be
	// possible at a time. The transaction tells the database: SQLite for one made by endstate.SQLiteTx, else PostgreSQL.
	Begin func(ctx context.Context) (endstate.Tx, error)
	// Open makes a new aggregate that is open, commits it, and returns its name: another one at each call.
	Open func(t testing.TB) guard.Ref
	// Absent returns the name of an aggregate that doesn't exist. Leave it nil for a guard to which such an aggregate is
	// an open one, like guard.Ledger.
	Absent func(t testing.TB) guard.Ref
	// States are two different terminal states.
	States [2]string
	// NotTerminal is a state that Settle must refuse. The default, the empty state, is terminal to nobody.
	NotTerminal string
	// Provenance says that the guard keeps who finalized an aggregate, and when.
	Provenance bool
	// Racers is how many transactions race for one aggregate. Default 24.
	Racers int
}

// Pgx makes a Harness.Begin of a pool.
func Pgx(pool *pgxpool.Pool) func(context.Context) (endstate.Tx, error) {
	return func(ctx context.Context) (endstate.Tx, error) {
		return pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	}
}

// SQL makes a Harness.Begin of a database handle; wrap is endstate.PostgresTx or endstate.SQLiteTx. On SQLite, set a busy timeout
// of some seconds.
func SQL(db *sql.DB, wrap func(endstate.SQLTx) endstate.Tx) func(context.Context) (endstate.Tx, error) {
	return func(ctx context.Context) (endstate.Tx, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		return wrap(tx), nil
	}
}

// Run tests the harness's guard, each promise in a subtest.
func Run(t *testing.T, h Harness) {
	t.Helper()
	require.NotNil(t, h.Guard, "Harness.Guard")
	require.NotNil(t, h.Begin, "Harness.Begin")
	require.NotNil(t, h.Open, "Harness.Open")
	require.NotEmpty(t, h.States[0], "Harness.States")
	require.NotEmpty(t, h.States[1], "Harness.States")
	require.NotEqual(t, h.States[0], h.States[1], "Harness.States")
	if h.Racers == 0 {
		h.Racers = 24
	}
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"a claim of an open aggregate says so", (*suite).claimOpen},
		{"settle moves it and says who did", (*suite).settle},
		{"a rollback leaves it open", (*suite).rollback},
		{"a claim without settle leaves it open", (*suite).claimOnly},
		{"settle compares and sets", (*suite).compareAndSet},
		{"settle refuses a state that is not terminal", (*suite).notTerminal},
		{"an absent aggregate is never won", (*suite).absent},
		{"a claim of a final aggregate writes and locks nothing", (*suite).finalWritesNothing},
		{"a settle that comes too late writes nothing", (*suite).lateSettleWritesNothing},
		{"a reader waits for nobody", (*suite).read},
		{"a second claim waits and sees the commit", (*suite).waitForCommit},
		{"a second claim waits and sees the rollback", (*suite).waitForRollback},
		{"a settle that waited is refused", (*suite).waitToSettle},
		{"a claim that waits ends with its context", (*suite).waitCancelled},
		{"aggregates do not wait for each other", (*suite).independent},
		{"exactly one racer settles", (*suite).race},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			t.Cleanup(cancel)
			test.run(&suite{Harness: h, t: t, ctx: ctx})
		})
	}
}

type suite struct {
	Harness
	t   *testing.T
	ctx context.Context
}

// begin starts a transaction that is rolled back at the test's end unless it ended before.
func (s *suite) begin() endstate.Tx {
	s.t.Helper()
	tx, err := s.Begin(s.ctx)
	require.NoError(s.t, err, "Harness.Begin")
	s.t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(s.ctx)) })
	return tx
}

func (s *suite) commit(tx endstate.Tx) {
	s.t.Helper()
	require.NoError(s.t, tx.Commit(s.ctx), "commit")
}

func (s *suite) rollbackTx(tx endstate.Tx) {
	s.t.Helper()
	require.NoError(s.t, tx.Rollback(s.ctx), "rollback")
}

// to is a transition of an attempt of its own.
func (s *suite) to(state string) guard.Transition {
	token := uuid.New()
	digest := sha256.Sum256(token[:])
	return guard.Transition{State: state, Trigger: "guardtest " + token.String()[:4], Token: token, Digest: digest[:]}
}

// claim claims in a transaction and expects it open.
func (s *suite) claimOf(tx endstate.Tx, ref guard.Ref) {
	s.t.Helper()
	rec, err := s.Guard.Claim(s.ctx, tx, ref)
	require.NoError(s.t, err, "Claim of %v", ref)
	require.False(s.t, rec.Final, "Claim of %v, which is open, says final in state %q", ref, rec.State)
	require.Nil(s.t, rec.Provenance, "Claim of %v, which is open, says who finalized it", ref)
}

// finalized makes an aggregate that is final, and returns its record.
func (s *suite) finalized() (guard.Ref, guard.Record) {
	s.t.Helper()
	ref, tx, to := s.Open(s.t), s.begin(), s.to(s.States[0])
	s.claimOf(tx, ref)
	rec, err := s.Guard.Settle(s.ctx, tx, ref, to)
	require.NoError(s.t, err, "Settle of %v", ref)
	s.requireRecord(rec, to)
	s.commit(tx)
	return ref, rec
}

// look claims in a transaction of its own and rolls it back.
func (s *suite) look(ref guard.Ref) guard.Record {
	s.t.Helper()
	tx := s.begin()
	rec, err := s.Guard.Claim(s.ctx, tx, ref)
	require.NoError(s.t, err, "Claim of %v", ref)
	s.rollbackTx(tx)
	return rec
}

// requireRecord checks that rec is that of a transition.
func (s *suite) requireRecord(rec guard.Record, to guard.Transition) {
	s.t.Helper()
	require.True(s.t, rec.Final, "the record of a settled aggregate says that it is open")
	require.Equal(s.t, to.State, rec.State, "state")
	if !s.Provenance {
		require.Nil(s.t, rec.Provenance, "Harness.Provenance is not set")
		return
	}
	require.NotNil(s.t, rec.Provenance, "Harness.Provenance is set")
	require.Equal(s.t, to.Trigger, rec.Provenance.Trigger, "trigger")
	require.Equal(s.t, to.Token, rec.Provenance.Token, "attempt token")
	require.Equal(s.t, to.Digest, rec.Provenance.Digest, "digest")
	require.False(s.t, rec.Provenance.At.IsZero(), "time")
}

// requireSame checks that two calls were told the same.
func (s *suite) requireSame(want, got guard.Record) {
	s.t.Helper()
	require.Equal(s.t, plain(want), plain(got), "records of one final aggregate differ")
}

// plain is a record without what may differ between two views of one aggregate: a time's location.
func plain(r guard.Record) guard.Record {
	r.XID = ""
	if r.Provenance != nil {
		p := *r.Provenance
		p.At = p.At.UTC()
		r.Provenance = &p
	}
	return r
}

func (s *suite) postgres(tx endstate.Tx) bool { return sqltx.Of(tx) == sqltx.Postgres }

// scan reads one value in a transaction.
func scan[T any](s *suite, tx endstate.Tx, query string, args ...any) (value T) {
	s.t.Helper()
	require.NoError(s.t, tx.QueryRow(s.ctx, query, args...).Scan(&value), query)
	return value
}
