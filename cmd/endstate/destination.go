package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/natsjs"
	"github.com/endstate-go/endstate/outbox/redisstream"
	"github.com/endstate-go/endstate/outbox/webhook"
)

// The environment's names for what others shouldn't see in the process list.
const (
	toEnv      = "ENDSTATE_TO"
	secretsEnv = "ENDSTATE_WEBHOOK_SECRETS"
)

// destination is where a relay publishes to.
type destination struct {
	to     string // of --to
	source string

	stream, streamBy string
	maxLen           int64
	maxAge           time.Duration

	prefix, natsStream, natsCreds string

	binary      bool
	secretFile  string
	concurrency int

	kafka kafkaFlags

	files tlsFiles
	tls   *tls.Config // what files hold; nil for nothing
}

func (d *destination) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&d.to, "to", os.Getenv(toEnv), "destination `URL`: redis://…, rediss://…, nats://…, tls://…, kafka://…, kafkas://…, http://… or https://…; default: $"+toEnv)
	flags.Lookup("to").DefValue = "" // help must not show a password
	flags.StringVar(&d.source, "source", "endstate", "nats, kafka, http: CloudEvents' source, a `URI` that names the service")
	flags.StringVar(&d.stream, "stream", "", "redis: the stream's `KEY`; default: "+redisstream.DefaultStream)
	flags.StringVar(&d.streamBy, "stream-by", "", "redis: a stream for each value of this `FIELD`, type or aggregate-type, with the stream's key and a colon before it")
	flags.Int64Var(&d.maxLen, "max-len", 0, "redis: trim streams to about `N` entries, whether they were read or not; default: don't")
	flags.DurationVar(&d.maxAge, "max-age", 0, "redis: trim entries older than about `DURATION`, whether they were read or not; default: don't")
	flags.StringVar(&d.prefix, "subject-prefix", "events", "nats: `PREFIX` of all subjects")
	flags.StringVar(&d.natsStream, "nats-stream", "", "nats: the `STREAM` that has to take the events; default: any that has their subjects")
	flags.StringVar(&d.natsCreds, "nats-creds", "", "nats: `FILE` with the user's credentials")
	flags.BoolVar(&d.binary, "binary", false, "http: CloudEvents' binary mode, where the signature covers less")
	flags.StringVar(&d.secretFile, "secret-file", "", "http: `FILE` with the secrets to sign with, whsec_…, one a line; default: those in $"+secretsEnv+", separated by spaces")
	flags.IntVar(&d.concurrency, "concurrency", 16, "http: `N` requests at a time")
	d.kafka.flags(cmd)
	d.files.flags(cmd)
}

// opened is a publisher with what it needs to be closed.
type opened struct {
	outbox.Publisher
	place string // for people: without credentials
	// answers says why the destination can't be reached for now.
	answers func(context.Context) error
	close   func()
}

// open makes the publisher that --to names. It needn't be reachable.
func (d *destination) open(log *slog.Logger) (*opened, error) {
	if d.to == "" {
		return nil, errors.New("no destination: give --to or set " + toEnv)
	}
	if fault := urlFault(d.to); fault != "" {
		return nil, errors.New("--to can't be taken for a URL: " + fault)
	}
	scheme, _, _ := strings.Cut(d.to, "://")
	var err error
	if d.tls, err = d.files.config(); err != nil {
		return nil, err
	}
	if d.tls != nil && (scheme == "redis" || scheme == "http" || scheme == "kafka") {
		return nil, fmt.Errorf("--to-ca, --to-cert and --to-key are for TLS, which %s:// has not: write %[1]ss://", scheme)
	}
	switch scheme {
	case "redis", "rediss":
		redis.SetLogger(redisLog{log})
		return d.openRedis()
	case "nats", "tls":
		return d.openNATS()
	case "kafka", "kafkas":
		return d.openKafka(log)
	case "http", "https":
		return d.openWebhook()
	}
	return nil, errors.New("--to begins with none of redis://, rediss://, nats://, tls://, kafka://, kafkas://, http:// and https://") // unquoted: it may hold a password
}

// redisLog has go-redis, which reports each failed dial, log as the rest does. The relay tells what comes of them.
type redisLog struct{ *slog.Logger }

func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	l.DebugContext(ctx, fmt.Sprintf(format, v...))
}

// openRedis takes the URLs of go-redis, those of a cluster if there are several addresses.
func (d *destination) openRedis() (*opened, error) {
	u, err := url.Parse(d.to)
	if err != nil {
		return nil, errors.New("--to can't be parsed as redis://HOST:PORT/DATABASE")
	}
	var client redis.UniversalClient
	if u.Query().Has("addr") {
		opts, err := redis.ParseClusterURL(d.to)
		if err != nil {
			return nil, errors.New("--to can't be parsed as redis://HOST:PORT?addr=HOST:PORT")
		}
		opts.ContextTimeoutEnabled, opts.MaxRetries = true, -1 // the relay tries again
		d.trust(opts.TLSConfig)
		client = redis.NewClusterClient(opts)
	} else {
		opts, err := redis.ParseURL(d.to)
		if err != nil {
			return nil, errors.New("--to can't be parsed as redis://HOST:PORT/DATABASE")
		}
		opts.ContextTimeoutEnabled, opts.MaxRetries = true, -1
		d.trust(opts.TLSConfig)
		client = redis.NewClient(opts)
	}
	closeClient := func() { _ = client.Close() }
	cfg := &redisstream.Config{Stream: d.stream, MaxLen: d.maxLen, MaxAge: d.maxAge}
	if d.streamBy != "" {
		field := map[string]func(outbox.Event) string{
			"type":           func(e outbox.Event) string { return e.Type },
			"aggregate-type": func(e outbox.Event) string { return e.AggregateType },
		}[d.streamBy]
		if field == nil {
			closeClient()
			return nil, fmt.Errorf("--stream-by is %q; there are type and aggregate-type", d.streamBy)
		}
		prefix := cmp.Or(d.stream, redisstream.DefaultStream)
		cfg.Stream, cfg.StreamFor = "", func(e outbox.Event) string { return prefix + ":" + field(e) }
	}
	p, err := redisstream.New(client, cfg)
	if err != nil {
		closeClient()
		return nil, err
	}
	return &opened{p, place(d.to), func(ctx context.Context) error { return client.Ping(ctx).Err() }, closeClient}, nil
}

// trust gives a client's own settings, which have the server's name, what the files hold.
func (d *destination) trust(own *tls.Config) {
	if own != nil && d.tls != nil {
		own.RootCAs, own.Certificates = d.tls.RootCAs, d.tls.Certificates
	}
}

func (d *destination) openNATS() (*opened, error) {
	closed := make(chan struct{})
	opts := []nats.Option{
		nats.Name("endstate relay"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.FlusherTimeout(5 * time.Second),
		nats.ReconnectBufSize(-1), // the relay tries again
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }),
	}
	if d.natsCreds != "" {
		opts = append(opts, nats.UserCredentials(d.natsCreds))
	}
	if d.tls != nil {
		opts = append(opts, nats.Secure(d.tls))
	}
	for _, one := range strings.Split(d.to, ",") { // as NATS does, whose error would quote it
		if one = strings.TrimSpace(one); !strings.Contains(one, "://") {
			one = "nats://" + one
		}
		if u, err := url.Parse(one); err != nil || u.Hostname() == "" {
			return nil, errors.New("--to can't be parsed as nats://USER:PASSWORD@HOST:PORT, or as several of these with commas between them (%2C is one in a password)")
		}
	}
	conn, err := nats.Connect(d.to, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	shut := func() { conn.Close(); <-closed }
	p, err := natsjs.New(conn, &natsjs.Config{Prefix: d.prefix, Stream: d.natsStream, Source: d.source})
	if err != nil {
		shut()
		return nil, err
	}
	answers := func(context.Context) error {
		if !conn.IsConnected() {
			if err := conn.LastError(); err != nil {
				return fmt.Errorf("not connected: %w", err)
			}
			return errors.New("not connected")
		}
		return nil
	}
	return &opened{p, place(d.to), answers, shut}, nil
}

func (d *destination) openWebhook() (*opened, error) {
	secrets, err := d.secrets()
	if err != nil {
		return nil, err
	}
	p, err := webhook.New(d.to, &webhook.Config{Source: d.source, Secrets: secrets, Binary: d.binary, Concurrency: d.concurrency, TLS: d.tls})
	if err != nil {
		return nil, err
	}
	return &opened{p, place(d.to), func(context.Context) error { return nil }, p.Close}, nil
}

// secrets reads those of --secret-file, or of the environment.
func (d *destination) secrets() ([]webhook.Secret, error) {
	texts := strings.Fields(os.Getenv(secretsEnv))
	from := "the environment's " + secretsEnv
	if d.secretFile != "" {
		from, texts = "--secret-file", nil
		content, err := os.ReadFile(d.secretFile)
		if err != nil {
			return nil, fmt.Errorf("--secret-file: %w", err)
		}
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				texts = append(texts, line)
			}
		}
		if len(texts) == 0 {
			return nil, errors.New("--secret-file holds no secret")
		}
	}
	var secrets []webhook.Secret
	for _, text := range texts {
		s, err := webhook.ParseSecret(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		secrets = append(secrets, s)
	}
	return secrets, nil
}
