package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// delivery is one delivery of an event, as it is told to a consumer's process.
type delivery struct {
	Event outbox.Event
	Crash string // the step at which the process is killed, once
}

// processes is how many processes each consumer has.
const processes = 2

// broker takes events from the relay and delivers them, each several times and in any order, until they are acknowledged.
type broker struct {
	repeats int
	mu      sync.Mutex
	random  *rand.Rand
	waiting map[string][]delivery // by consumer
	crashes map[string]int        // planned, by consumer
	counts  map[string]*counts
	arrived chan struct{} // closed when all has arrived from the relay
}

// counts are what a broker knows of a consumer.
type counts struct {
	delivered int // acknowledged
	cut       int // deliveries during which the process died
	ids       map[string]bool
}

func newBroker(opts options) *broker {
	b := &broker{repeats: 1 + opts.duplicates, random: rand.New(rand.NewPCG(1, 2)), waiting: map[string][]delivery{}, crashes: map[string]int{},
		counts: map[string]*counts{}, arrived: make(chan struct{})}
	for _, consumer := range consumerOf {
		b.counts[consumer] = &counts{ids: map[string]bool{}}
	}
	return b
}

// Publish implements outbox.Publisher.
func (b *broker) Publish(_ context.Context, batch []outbox.Event) []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range batch {
		consumer := consumerOf[e.Type]
		b.counts[consumer].ids[e.ID.String()] = true
		for range b.repeats {
			d := delivery{Event: e}
			if n := len(b.waiting[consumer]); n%5 == 2 && b.crashes[consumer] < 2*len(steps) {
				d.Crash = steps[b.crashes[consumer]%len(steps)]
				b.crashes[consumer]++
			}
			b.waiting[consumer] = append(b.waiting[consumer], d)
		}
	}
	return nil
}

// run relays and delivers everything.
func (b *broker) run(ctx context.Context, w *world) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() {
		if err := b.relay(ctx, w); err != nil {
			cancel(fmt.Errorf("relay: %w", err))
		}
	})
	group.Go(func() {
		if err := b.applyAll(ctx, w); err != nil {
			cancel(fmt.Errorf("apply in %s: %w", results, err))
		}
	})
	for consumer := range b.counts {
		if consumer == results {
			continue
		}
		for range processes {
			group.Go(func() {
				if err := b.deliver(ctx, w, consumer); err != nil {
					cancel(fmt.Errorf("deliver to %s: %w", consumer, err))
				}
			})
		}
	}
	group.Wait()
	return context.Cause(ctx)
}

// brokered are the types of the events that go through the broker.
func brokered() (types []string) {
	for eventType, consumer := range consumerOf {
		if consumer != results {
			types = append(types, eventType)
		}
	}
	slices.Sort(types)
	return types
}

// relay publishes until the outbox is empty.
func (b *broker) relay(ctx context.Context, w *world) error {
	rel, err := relay.NewSQL(w.db, b, &relay.Config{Types: brokered(), PollInterval: 50 * time.Millisecond, Logger: quiet()})
	if err != nil {
		return err
	}
	admin, err := relay.NewAdminSQL(w.db, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(ctx) }()
	for {
		stats, err := admin.Stats(ctx)
		done := slices.ContainsFunc(stats, func(s relay.Stats) bool {
			return s.Subscription == relay.DefaultSubscription && len(s.Relays) > 0 && s.Pending+s.Retrying == 0
		})
		if err != nil || done {
			cancel()
			close(b.arrived)
			return errors.Join(err, <-ended)
		}
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// deliver hands deliveries to one process of a consumer, and starts another one when it dies.
func (b *broker) deliver(ctx context.Context, w *world, consumer string) (err error) {
	select { // what arrives is shuffled as a whole
	case <-b.arrived:
	case <-ctx.Done():
		return nil
	}
	p, err := startProcess(ctx, w, consumer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	for ctx.Err() == nil {
		d, ok := b.take(consumer)
		if !ok {
			return nil
		}
		err := p.deliver(d)
		switch {
		case err == nil:
			b.acknowledged(consumer)
		case errors.Is(err, errDied) && d.Crash != "":
			b.cutOff(consumer, d)
			if p, err = startProcess(ctx, w, consumer); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

// take takes any of a consumer's deliveries.
func (b *broker) take(consumer string) (delivery, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.waiting[consumer]
	if len(list) == 0 {
		return delivery{}, false
	}
	i, last := b.random.IntN(len(list)), len(list)-1
	d := list[i]
	list[i] = list[last]
	b.waiting[consumer] = list[:last]
	return d, true
}

func (b *broker) acknowledged(consumer string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counts[consumer].delivered++
}

// cutOff puts back what wasn't acknowledged.
func (b *broker) cutOff(consumer string, d delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d.Crash = ""
	b.counts[consumer].cut++
	b.waiting[consumer] = append(b.waiting[consumer], d)
}
