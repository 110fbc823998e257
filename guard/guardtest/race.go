package guardtest

import (
	"errors"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// racer is what one racing transaction was told.
type racer struct {
	to  guard.Transition
	won bool
	rec guard.Record
	err error
}

func (s *suite) race() {
	ref := s.Open(s.t)
	racers := make([]racer, s.Racers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range racers {
		r := &racers[i]
		r.to = s.to(s.States[i%2])
		wg.Go(func() {
			<-start
			for {
				r.won, r.rec, r.err = s.attempt(ref, r.to)
				// Only SQLite says busy: it lets a transaction wait for its locks for a limited time. Such an attempt did
				// nothing, and its caller is to run it again.
				if !sqltx.Conflicted(r.err) || sqltx.State(r.err) != "" {
					return
				}
			}
		})
	}
	close(start)
	wg.Wait()

	var winner *racer
	for i := range racers {
		r := &racers[i]
		require.NoError(s.t, r.err, "racer %d", i)
		if r.won {
			require.Nil(s.t, winner, "two racers won")
			winner = r
		}
	}
	require.NotNil(s.t, winner, "no racer won")
	s.requireRecord(winner.rec, winner.to)
	for i := range racers {
		s.requireSame(winner.rec, racers[i].rec)
	}
	s.requireSame(winner.rec, s.look(ref))
}

// attempt claims, and settles if the aggregate is open, in one transaction.
func (s *suite) attempt(ref guard.Ref, to guard.Transition) (won bool, rec guard.Record, err error) {
	tx, err := s.Begin(s.ctx)
	if err != nil {
		return false, rec, err
	}
	defer func() {
		if err != nil || !won {
			err = errors.Join(err, tx.Rollback(s.ctx))
		}
	}()
	rec, err = s.Guard.Claim(s.ctx, tx, ref)
	if err != nil || rec.Final {
		return false, rec, err
	}
	rec, err = s.Guard.Settle(s.ctx, tx, ref, to)
	if err != nil {
		return false, rec, err
	}
	return true, rec, tx.Commit(s.ctx)
}
