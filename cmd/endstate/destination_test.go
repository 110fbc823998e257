package main

import (
	"log/slog"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox/webhook"
)

// Whatever stands around a password in --to or --db, it is in no error, and not in what people see of a destination. Nothing is sent
// by looking at them.
func FuzzURL(f *testing.F) {
	f.Add("https", "user", "host.example/hook?x=y")
	f.Add("kafkas", "user", "a:9092,b,kafkas://c")
	f.Add("postgres", "u%zz", "127.0.0.1:port/x?pool_max_conns=many")
	f.Add("nats", "", "[::1")
	f.Setenv(secretsEnv, webhook.GenerateSecret())
	log := slog.New(slog.DiscardHandler)
	const password = "hunter2-of-nobody"
	f.Fuzz(func(t *testing.T, scheme, user, rest string) {
		text := scheme + "://" + user + ":" + password + "@" + rest
		if !utf8.ValidString(text) || strings.ContainsAny(scheme, ",@") || strings.Contains(user+rest, "hunter2") {
			return
		}
		r := newRedactor([]string{"--to", text})
		fault := urlFault(text)
		require.NotContains(t, fault, password)
		require.NotContains(t, place(text), password)
		if scheme == "postgres" && !strings.Contains(rest, "?") { // parameters may name files
			if _, err := pgxpool.ParseConfig(text); err != nil {
				err = unparsed("--db", text, err)
				require.ErrorContains(t, err, "--db ")
				require.NotContains(t, err.Error(), password, "%q", text)
			}
		}
		switch scheme {
		case "nats", "tls", "redis", "rediss":
			return // which would dial
		}
		d := destination{to: text, source: "endstate", concurrency: 1}
		d.kafka.topic, d.kafka.sasl = "events", "scram-sha-512"
		made, err := d.open(log)
		if err != nil {
			require.NotContains(t, r.redact(err.Error()), password, "%q", text)
			return
		}
		defer made.close()
		require.Empty(t, fault)
		require.NotContains(t, made.place, password, "%q", text)
		require.Contains(t, []string{"http", "https", "kafka", "kafkas"}, scheme)
	})
}
