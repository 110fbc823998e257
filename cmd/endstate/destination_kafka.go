package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/endstate-go/endstate/outbox/kafka"
)

// kafkaFlags are what only kafka:// has.
type kafkaFlags struct {
	topic        string
	sasl         string
	passwordFile string
}

func (k *kafkaFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&k.topic, "topic", kafka.DefaultTopic, "kafka: the `TOPIC`, where {aggregatetype} and {type} stand for the event's")
	flags.StringVar(&k.sasl, "sasl", "scram-sha-512", "kafka: sign in by this `MECHANISM`, if --to has a user: scram-sha-512, scram-sha-256, or plain over TLS")
	flags.StringVar(&k.passwordFile, "password-file", "", "kafka: `FILE` with the password of the user in --to, which then has none")
}

// openKafka takes kafka://USER:PASSWORD@HOST:PORT,HOST:PORT, or kafkas:// for TLS.
func (d *destination) openKafka(log *slog.Logger) (*opened, error) {
	scheme, _, _ := strings.Cut(d.to, "://")
	var seeds []string
	var user *url.Userinfo
	for _, one := range splitList(d.to) {
		if one = strings.TrimSpace(one); !strings.Contains(one, "://") {
			one = scheme + "://" + one
		}
		u, err := url.Parse(one)
		if err != nil || u.Hostname() == "" || u.Scheme != scheme || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("--to can't be parsed as %s://USER:PASSWORD@HOST:PORT, with further HOST:PORT behind commas (%%2C is one in a password)", scheme)
		}
		if u.Port() == "" {
			u.Host += ":9092"
		}
		seeds = append(seeds, u.Host)
		if u.User != nil {
			user = u.User
		}
	}
	opts := []kgo.Opt{kgo.SeedBrokers(seeds...), kgo.WithLogger(kafkaLog{log})}
	if scheme == "kafkas" {
		opts = append(opts, kgo.DialTLSConfig(d.tls)) // nil: the system's authorities
	}
	if user != nil {
		mechanism, err := d.kafka.mechanism(user, scheme == "kafkas")
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(mechanism))
	}
	p, err := kafka.New(&kafka.Config{Topic: d.kafka.topic, Source: d.source, Logger: log}, opts...)
	if err != nil {
		return nil, err
	}
	return &opened{p, place(d.to), p.Ping, p.Close}, nil
}

// mechanism is how a user signs in.
func (k *kafkaFlags) mechanism(user *url.Userinfo, secure bool) (sasl.Mechanism, error) {
	password, given := user.Password()
	if k.passwordFile != "" {
		if given {
			return nil, errors.New("--to has a password, and so has --password-file")
		}
		content, err := os.ReadFile(k.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("--password-file: %w", err)
		}
		if password = strings.TrimRight(string(content), "\r\n"); password == "" {
			return nil, errors.New("--password-file is empty")
		}
	}
	switch k.sasl {
	case "plain":
		if !secure {
			return nil, errors.New("--sasl plain would show the password to whoever listens: write kafkas:// for TLS, or take a SCRAM mechanism")
		}
		return plain.Auth{User: user.Username(), Pass: password}.AsMechanism(), nil
	case "scram-sha-256":
		return scram.Auth{User: user.Username(), Pass: password}.AsSha256Mechanism(), nil
	case "scram-sha-512":
		return scram.Auth{User: user.Username(), Pass: password}.AsSha512Mechanism(), nil
	}
	return nil, fmt.Errorf("--sasl is %q; there are scram-sha-512, scram-sha-256 and plain", k.sasl)
}

// kafkaLog has the client, which reports each step, log at debug level. The relay and the publisher tell what comes of them.
type kafkaLog struct{ *slog.Logger }

// Level implements kgo.Logger.
func (l kafkaLog) Level() kgo.LogLevel {
	if l.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelNone
}

// Log implements kgo.Logger.
func (l kafkaLog) Log(level kgo.LogLevel, message string, keysAndValues ...any) {
	l.Debug("kafka: "+message, append(keysAndValues, "client_level", level.String())...)
}
