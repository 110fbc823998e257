package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// subscribed is one subscription that the command publishes.
type subscribed struct {
	cfg              relay.Config
	to               destination
	retention, start string
	line             int // of the configuration file; 0 for none

	opened *opened
	run    func(context.Context) error

	published, failed, dead atomic.Int64              // since the start
	owned                   atomic.Int64              // partitions, before it gave them back
	lease                   atomic.Pointer[uuid.UUID] // the last that it took
}

// flags are those of one subscription, and so the fields of one in a configuration file.
func (s *subscribed) flags(cmd *cobra.Command) {
	s.to.flags(cmd)
	flags := cmd.Flags()
	subscriptionFlag(cmd, &s.cfg.Subscription)
	flags.StringArrayVar(&s.cfg.Types, "type", nil, "publish only events of this `TYPE`, or of a family, such as 'assessment.*'; may be repeated; default: all")
	flags.StringVar(&s.start, "start", "begin", "where a new subscription starts: begin, end, or a `TIME`, or how long ago, such as 24h")
	flags.StringVar(&s.cfg.Name, "name", "", "`NAME` of this relay for people; default: host name and process id")
	flags.IntVar(&s.cfg.BatchSize, "batch-size", 1000, "publish at most `N` events at once")
	flags.IntVar(&s.cfg.MaxAttempts, "max-attempts", 100, "an event is dead after `N` failures")
	flags.DurationVar(&s.cfg.MaxBackoff, "max-backoff", 10*time.Minute, "the longest `DURATION` between two attempts")
	flags.DurationVar(&s.cfg.PublishTimeout, "publish-timeout", 30*time.Second, "a batch may take this `DURATION`")
	flags.DurationVar(&s.cfg.ShutdownTimeout, "shutdown-timeout", 10*time.Second, "let a batch go on for this `DURATION` after a signal")
	flags.DurationVar(&s.cfg.PollInterval, "poll-interval", time.Second, "the longest `DURATION` between two looks at the outbox")
	flags.DurationVar(&s.cfg.LeaseTTL, "lease-ttl", 10*time.Second, "the partitions of a relay that died wait for this `DURATION`")
	flags.BoolVar(&s.cfg.Unordered, "unordered", false, "let an aggregate's later events overtake one that failed")
	flags.StringVar(&s.retention, "retention", "forever", "how long published events stay: forever, none, or a `DURATION`")
}

// parse reads what is more than a flag's value.
func (s *subscribed) parse() (err error) {
	if s.cfg.Retention, err = parseRetention(s.retention); err != nil {
		return s.say(err)
	}
	s.cfg.Start, err = parseStart(s.start)
	return s.say(err)
}

// say names the subscription of a file that an error is about.
func (s *subscribed) say(err error) error {
	if err == nil || s.line == 0 {
		return err
	}
	return fmt.Errorf("subscription %s (line %d): %w", s.cfg.Subscription, s.line, err)
}

// prepare makes the relay.
func (s *subscribed) prepare(r *relaying, db *database) (err error) {
	if s.cfg.Name == "" { // as the relay does
		host, _ := os.Hostname()
		s.cfg.Name = fmt.Sprintf("%s/%d", host, os.Getpid())
	}
	s.cfg.Outbox, s.cfg.ListenURL, s.cfg.Destination = r.outbox, r.listen, s.opened.place
	s.cfg.Logger, s.cfg.Trace = r.log, s.trace(r.metrics.telemetry.Relay(s.cfg.Subscription))
	made, err := db.relay(s.opened, &s.cfg)
	if err == nil {
		s.run = made.Run
	}
	return err
}

// trace counts for the report, beside telemetry, which has all of these hooks where there is a provider of metrics.
func (s *subscribed) trace(telemetry *relay.Trace) *relay.Trace {
	all := *telemetry
	all.Published = func(ctx context.Context, event outbox.Event, age time.Duration) {
		s.published.Add(1)
		telemetry.Published(ctx, event, age)
	}
	all.Failed = func(ctx context.Context, event outbox.Event, attempt int, err error, wait time.Duration) {
		s.failed.Add(1)
		telemetry.Failed(ctx, event, attempt, err, wait)
	}
	all.Dead = func(ctx context.Context, event outbox.Event, attempts int, err error) {
		s.dead.Add(1)
		telemetry.Dead(ctx, event, attempts, err)
	}
	all.Owns = func(ctx context.Context, partitions int) {
		if partitions > 0 || ctx.Err() == nil { // the last change is that it gives them back
			s.owned.Store(int64(partitions))
		}
		telemetry.Owns(ctx, partitions)
	}
	all.LeaseTaken = func(_ context.Context, id uuid.UUID) { s.lease.Store(&id) }
	return &all
}
