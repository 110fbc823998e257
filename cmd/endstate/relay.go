package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// listenEnv is where --listen-url's default comes from.
const listenEnv = "ENDSTATE_LISTEN_URL"

// newRelay is the command that publishes events, as a program of its own beside a service.
func newRelay(a *app) *cobra.Command {
	r := &relaying{app: a}
	one := &subscribed{}
	var level, config string
	cmd := &cobra.Command{
		Use:   "relay --to URL",
		Short: "Publish the outbox's events to Redis Streams, NATS JetStream, Kafka or a webhook",
		Long: `Publish the outbox's events, as a program of its own beside a service: to Redis Streams, NATS JetStream, Kafka, or by HTTP as
signed CloudEvents. Any number of relays share the work, and each aggregate's events go out in order.

It runs until SIGINT or SIGTERM; then it lets what is in flight finish, hands over its partitions, and prints what it did, at the
latest 20 s after --shutdown-timeout. A database or a destination that is away doesn't end it. Its log goes to stderr, with the
outbox's figures now and then; no line has a credential or a payload.

With --http it serves /metrics for Prometheus, /healthz while the process lives, and /readyz, which is 200 once each of its relays has
a lease in the database: it publishes its share of the partitions, or watches those that others own. A destination that is away
makes none unready, since another relay couldn't reach it either.

Several subscriptions are published by one program from a file, in YAML:

  db: {env: SHOP_DB}                   # what --db, --http and the other flags of the program take; flags come before the file
  http: 127.0.0.1:9090
  subscriptions:                       # each with what its flags take
    - subscription: kafka
      to: kafkas://relay@kafka:9093
      password-file: /run/secrets/kafka
      topic: shop.{aggregatetype}
    - subscription: partner
      to: {file: /run/secrets/partner}   # the whole URL, read from a file, or {env: NAME} from the environment
      type: [assessment.*, batch.closed]

Exit status: 0 ended by a signal, 2 could not run.`,
		Example: `  ENDSTATE_DB=postgres://… endstate relay --to redis://localhost:6379
  endstate relay --db sqlite:shop.db --to https://example.com/hook --secret-file /run/secrets/webhook --retention 168h
  endstate relay --config /etc/endstate/relay.yaml --http 0.0.0.0:9090`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.subscriptions = []*subscribed{one}
			if config != "" {
				var err error
				if r.subscriptions, err = a.readConfig(cmd, config); err != nil {
					return err
				}
			}
			for _, s := range r.subscriptions {
				if err := s.parse(); err != nil {
					return err
				}
			}
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level is %q; there are debug, info, warn and error", level)
			}
			r.log = a.logger(l)
			return r.run(cmd.Context())
		},
	}
	one.flags(cmd)
	outboxFlags(cmd, &r.outbox)
	flags := cmd.Flags()
	flags.StringVar(&config, "config", "", "`FILE` with several subscriptions, in YAML")
	flags.StringVar(&r.http, "http", "", "serve /metrics, /healthz and /readyz at this `ADDRESS`, such as 127.0.0.1:9090; without a host only to this machine; default: don't")
	flags.StringVar(&r.listen, "listen-url", "", "postgres: `URL` of the primary itself, not of a pooler, to be woken by; default: $"+listenEnv+", else only look")
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
	subscriptions []*subscribed
	outbox        outbox.Writer
	listen        string
	figures       time.Duration
	http          string
	metrics       *metrics
	log           *slog.Logger
}

// endTimeout is how long after --shutdown-timeout the command ends, whatever the database does.
const endTimeout = 20 * time.Second

func (r *relaying) run(ctx context.Context) error {
	for _, s := range r.subscriptions {
		to, err := s.to.open(r.log)
		if err != nil {
			return s.say(err)
		}
		defer to.close()
		s.opened = to
	}
	admin, db, err := r.admin(ctx, writes, &r.outbox)
	if err != nil {
		return err
	}
	defer db.close()
	if r.listen == "" && db.pool != nil {
		r.listen = os.Getenv(listenEnv)
	}
	if r.metrics, err = newMetrics(); err != nil {
		return err
	}
	bound := endTimeout
	for _, s := range r.subscriptions {
		if err := s.prepare(r, db); err != nil {
			return s.say(err)
		}
		bound = max(bound, s.cfg.ShutdownTimeout+endTimeout)
	}
	stopServing, err := r.serve(ctx, admin)
	if err != nil {
		return err
	}
	defer stopServing()
	for _, s := range r.subscriptions {
		r.log.InfoContext(ctx, "relay: publishing", "to", s.opened.place, "database", db.name(), "outbox", r.outbox.Name(), "subscription", s.cfg.Subscription)
		if err := s.opened.answers(ctx); err != nil {
			r.log.WarnContext(ctx, "relay: the destination does not answer yet", "to", s.opened.place, "error", err)
		}
	}

	start := time.Now()
	watching, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { r.watch(watching, admin) })
	err = r.runAll(ctx, bound)
	stop()
	watch.Wait()
	if err != nil {
		return err
	}
	return r.report(time.Since(start))
}

// runAll runs the relays until ctx ends, or one of them can't run. It doesn't wait for longer than bound after that.
func (r *relaying) runAll(ctx context.Context, bound time.Duration) error {
	relays, running := errgroup.WithContext(ctx)
	for _, s := range r.subscriptions {
		relays.Go(func() error { return s.say(s.run(running)) })
	}
	ended := make(chan error, 1)
	go func() { ended <- relays.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-running.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(bound):
	}
	err := fmt.Errorf("did not end within %v: others get its partitions after --lease-ttl", bound)
	if first := context.Cause(running); !errors.Is(first, context.Cause(ctx)) { // it ended the others
		err = errors.Join(first, err)
	}
	return err
}

// report prints what was done.
func (r *relaying) report(took time.Duration) error {
	type result struct {
		Subscription string  `json:"subscription"`
		Published    int64   `json:"published"`
		Failed       int64   `json:"failed"` // attempts
		Dead         int64   `json:"dead"`
		GivenBack    int64   `json:"given_back"` // partitions
		Seconds      float64 `json:"seconds"`
	}
	var all []result
	for _, s := range r.subscriptions {
		all = append(all, result{s.cfg.Subscription, s.published.Load(), s.failed.Load(), s.dead.Load(), s.owned.Load(), took.Seconds()})
	}
	text := func(w io.Writer) {
		for _, s := range all {
			if len(all) > 1 {
				fmt.Fprintf(w, "%s: ", s.Subscription)
			}
			fmt.Fprintf(w, "%s published in %v, %s, %s; %s given back\n", count(s.Published, "event"), took.Round(time.Second),
				count(s.Failed, "failure"), count(s.Dead, "dead letter"), count(s.GivenBack, "partition"))
		}
	}
	if len(all) == 1 {
		return r.print(all[0], text)
	}
	return r.print(all, text)
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
		asking, cancel := context.WithTimeout(ctx, statsTimeout)
		list, err := admin.Stats(asking)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.log.WarnContext(ctx, "relay: no figures", "error", err)
			continue
		}
		for _, s := range list {
			for _, own := range r.subscriptions {
				if s.Subscription == own.cfg.Subscription {
					r.log.InfoContext(ctx, "relay: figures", "subscription", s.Subscription, "pending", s.Pending, "retrying", s.Retrying, "dead", s.Dead, "oldest", s.OldestAge.Round(time.Millisecond),
						"rate", fmt.Sprintf("%.1f", s.Rate), "relays", len(s.Relays), "blocked", len(s.Blocked), "published", own.published.Load(), "failed", own.failed.Load())
				}
			}
		}
	}
}
