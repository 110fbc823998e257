package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// listenEnv is where --listen-url's default comes from.
const listenEnv = "ENDSTATE_LISTEN_URL"

// newRelay is the command that publishes events, as a program of its own beside a service.
func newRelay(a *app) *cobra.Command {
	r := &relaying{app: a}
	var retention, level, start string
	cmd := &cobra.Command{
		Use:   "relay --to URL",
		Short: "Publish the outbox's events to Redis Streams, NATS JetStream or a webhook",
		Long: `Publish the outbox's events, as a program of its own beside a service: to Redis Streams, NATS JetStream, or by HTTP as signed
CloudEvents. Any number of relays share the work, and each aggregate's events go out in order.

It runs until SIGINT or SIGTERM; then it lets what is in flight finish, hands over its partitions, and prints what it did. A
database or a destination that is away doesn't end it. Its log goes to stderr, with the outbox's figures now and then; no line
has a credential or a payload.

Exit status: 0 ended by a signal, 2 could not run.`,
		Example: `  ENDSTATE_DB=postgres://… endstate relay --to redis://localhost:6379
  endstate relay --db sqlite:shop.db --to https://example.com/hook --secret-file /run/secrets/webhook --retention 168h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if r.cfg.Retention, err = parseRetention(retention); err != nil {
				return err
			}
			if r.cfg.Start, err = parseStart(start); err != nil {
				return err
			}
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level is %q; there are debug, info, warn and error", level)
			}
			r.log = a.logger(l)
			return r.run(cmd.Context())
		},
	}
	r.to.flags(cmd)
	outboxFlags(cmd, &r.cfg.Outbox)
	flags := cmd.Flags()
	subscriptionFlag(cmd, &r.cfg.Subscription)
	flags.StringArrayVar(&r.cfg.Types, "type", nil, "publish only events of this `TYPE`, or of a family, such as 'assessment.*'; may be repeated; default: all")
	flags.StringVar(&start, "start", "begin", "where a new subscription starts: begin, end, or a `TIME`, or how long ago, such as 24h")
	flags.StringVar(&r.cfg.Name, "name", "", "`NAME` of this relay for people; default: host name and process id")
	flags.IntVar(&r.cfg.BatchSize, "batch-size", 1000, "publish at most `N` events at once")
	flags.IntVar(&r.cfg.MaxAttempts, "max-attempts", 100, "an event is dead after `N` failures")
	flags.DurationVar(&r.cfg.MaxBackoff, "max-backoff", 10*time.Minute, "the longest `DURATION` between two attempts")
	flags.DurationVar(&r.cfg.PublishTimeout, "publish-timeout", 30*time.Second, "a batch may take this `DURATION`")
	flags.DurationVar(&r.cfg.ShutdownTimeout, "shutdown-timeout", 10*time.Second, "let a batch go on for this `DURATION` after a signal")
	flags.DurationVar(&r.cfg.PollInterval, "poll-interval", time.Second, "the longest `DURATION` between two looks at the outbox")
	flags.DurationVar(&r.cfg.LeaseTTL, "lease-ttl", 10*time.Second, "the partitions of a relay that died wait for this `DURATION`")
	flags.BoolVar(&r.cfg.Unordered, "unordered", false, "let an aggregate's later events overtake one that failed")
	flags.StringVar(&retention, "retention", "forever", "how long published events stay: forever, none, or a `DURATION`")
	flags.StringVar(&r.listen, "listen-url", "", "postgres: `URL` of the primary itself, not of a pooler, to be woken by; default: the environment's "+listenEnv+", else only look")
	flags.DurationVar(&r.figures, "figures", time.Minute, "log the outbox's figures after each such `DURATION`; 0s: don't")
	flags.StringVar(&level, "log-level", "info", "log from this `LEVEL` on: debug, info, warn or error")
	return cmd
}

func parseRetention(text string) (time.Duration, error) {
	switch text {
	case "forever":
		return relay.KeepForever, nil
	case "none":
		return relay.DeleteOnPublish, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("--retention is %q; write forever, none, or how long, such as 168h", text)
	}
	return d, nil
}

func parseStart(text string) (relay.Start, error) {
	if text == "begin" || text == "end" {
		return relay.Start(text), nil
	}
	at, err := parseTime("start", text)
	if err != nil || at.IsZero() {
		return "", fmt.Errorf("--start is %q; write begin, end, a time such as 2026-05-01T00:00:00Z, or how long ago, such as 24h", text)
	}
	return relay.At(at), nil
}

// logger writes lines to stderr: as text, or as JSON under --json.
func (a *app) logger(level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
		if err, ok := attr.Value.Any().(error); ok {
			attr.Value = slog.StringValue(err.Error())
		}
		if attr.Value.Kind() == slog.KindString {
			attr.Value = slog.StringValue(a.secrets.redact(attr.Value.String()))
		}
		return attr
	}}
	if a.json {
		return slog.New(slog.NewJSONHandler(escapedJSON{a.stderr}, options))
	}
	return slog.New(slog.NewTextHandler(escapedText{a.stderr}, options))
}

// relaying is one run of the command.
type relaying struct {
	*app
	cfg     relay.Config
	to      destination
	listen  string
	figures time.Duration
	log     *slog.Logger

	published, failed, dead atomic.Int64 // since the start
}

func (r *relaying) run(ctx context.Context) error {
	to, err := r.to.open(r.log)
	if err != nil {
		return err
	}
	defer to.close()
	admin, db, err := r.admin(ctx, writes, &r.cfg.Outbox)
	if err != nil {
		return err
	}
	defer db.close()
	if r.cfg.ListenURL = r.listen; r.listen == "" && db.pool != nil {
		r.cfg.ListenURL = os.Getenv(listenEnv)
	}
	r.cfg.Destination = to.place
	r.cfg.Logger, r.cfg.Trace = r.log, r.trace()
	run, err := newRun(db, to, &r.cfg)
	if err != nil {
		return err
	}
	r.log.InfoContext(ctx, "relay: publishing", "to", to.place, "database", db.name(), "outbox", r.cfg.Outbox.Name())
	if err := to.answers(ctx); err != nil {
		r.log.WarnContext(ctx, "relay: the destination does not answer yet", "to", to.place, "error", err)
	}

	start := time.Now()
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.watch(watching, admin) })
	err = run(ctx)
	stop()
	watch.Wait()
	if err != nil {
		return err
	}
	result := struct {
		Published int64   `json:"published"`
		Failed    int64   `json:"failed"` // attempts
		Dead      int64   `json:"dead"`
		Seconds   float64 `json:"seconds"`
	}{r.published.Load(), r.failed.Load(), r.dead.Load(), time.Since(start).Seconds()}
	return r.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s published in %v, %s, %s\n", count(result.Published, "event"), time.Since(start).Round(time.Second),
			count(result.Failed, "failure"), count(result.Dead, "dead letter"))
	})
}

// newRun returns the Run of a relay on either kind of database.
func newRun(db *database, p outbox.Publisher, cfg *relay.Config) (func(context.Context) error, error) {
	if db.pool != nil {
		r, err := relay.New(db.pool, p, cfg)
		if err != nil {
			return nil, err
		}
		return r.Run, nil
	}
	r, err := relay.NewSQL(db.sql, p, cfg)
	if err != nil {
		return nil, err
	}
	return r.Run, nil
}

func (r *relaying) trace() *relay.Trace {
	return &relay.Trace{
		Published: func(context.Context, outbox.Event, time.Duration) { r.published.Add(1) },
		Failed:    func(context.Context, outbox.Event, int, error, time.Duration) { r.failed.Add(1) },
		Dead:      func(context.Context, outbox.Event, int, error) { r.dead.Add(1) },
	}
}

// watch logs the outbox's figures now and then.
func (r *relaying) watch(ctx context.Context, admin *relay.Admin) {
	if r.figures <= 0 {
		return
	}
	ticker := time.NewTicker(r.figures)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		list, err := admin.Stats(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.log.WarnContext(ctx, "relay: no figures", "error", err)
			continue
		}
		for _, s := range list {
			if s.Subscription == r.cfg.Subscription {
				r.log.InfoContext(ctx, "relay: figures", "subscription", s.Subscription, "pending", s.Pending, "retrying", s.Retrying, "dead", s.Dead, "oldest", s.OldestAge.Round(time.Millisecond),
					"rate", fmt.Sprintf("%.1f", s.Rate), "relays", len(s.Relays), "blocked", len(s.Blocked), "published", r.published.Load(), "failed", r.failed.Load())
			}
		}
	}
}
