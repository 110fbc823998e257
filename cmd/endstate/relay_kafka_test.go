package main

import (
	"context"
	"crypto/tls"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/endstate-go/endstate/outbox/kafka"
)

// kafkaRecords reads so many records.
func kafkaRecords(t *testing.T, n int, opts ...kgo.Opt) (records []*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(opts...)
	require.NoError(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(records) < n && ctx.Err() == nil {
		records = append(records, client.PollFetches(ctx).Records()...)
	}
	require.Len(t, records, n)
	return records
}

// The password is in a file, and the brokers want TLS.
func TestRelayToKafka(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, url string, db *sql.DB) {
		ours := newAuthority(t, "ours")
		cluster, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(3, "shop.order"), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{ours.server}}),
			kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "relay", "hunter2"))
		require.NoError(t, err)
		defer cluster.Close()
		file := filepath.Join(t.TempDir(), "password")
		require.NoError(t, os.WriteFile(file, []byte("hunter2\n"), 0o600))
		ids := putEvents(t, url, db, event("7", "paid"), event("7", "shipped"))
		to := "kafkas://relay@" + strings.Join(cluster.ListenAddrs(), ",")
		r := start(t, url, "relay", "--to", to, "--password-file", file, "--sasl", "scram-sha-256", "--to-ca", ours.ca, "--topic", "shop.order", "--poll-interval", "50ms")
		require.Eventually(t, func() bool { return unpublished(t, db) == 0 }, time.Minute, 10*time.Millisecond)
		res := r.terminate(t)
		require.Regexp(t, `^2 events published in \d+s, 0 failures, 0 dead letters; \d+ partitions given back\n$`, res.stdout)
		require.NotContains(t, res.stderr, "hunter2")
		for i, record := range kafkaRecords(t, 2, kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("shop.order"),
			kgo.DialTLSConfig(&tls.Config{RootCAs: ours.pool}), kgo.SASL(scram.Auth{User: "relay", Pass: "hunter2"}.AsSha256Mechanism())) {
			e, err := kafka.Decode(record.Headers, record.Value)
			require.NoError(t, err)
			require.Equal(t, ids[i], e.ID)
			require.Equal(t, "7", string(record.Key))
		}
	})
}

func TestKafkaDestinationsThatCannotBe(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t, "ours")
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, []byte("\n"), 0o600))
	for said, args := range map[string][]string{
		"--to can't be parsed as kafka://":                            {"--to", "kafka://user:hunter2%@localhost"},
		"--to can't be parsed as kafkas://":                           {"--to", "kafkas://user:hunter2@localhost/topic"},
		"--sasl plain would show the password":                        {"--to", "kafka://user:hunter2@localhost", "--sasl", "plain"},
		`--sasl is "magic"; there are scram-sha-512`:                  {"--to", "kafka://user:hunter2@localhost", "--sasl", "magic"},
		"--to has a password, and so has --password-file":             {"--to", "kafka://user:hunter2@localhost", "--password-file", empty},
		"--password-file is empty":                                    {"--to", "kafka://user@localhost", "--password-file", empty},
		"--password-file: open " + empty + "x":                        {"--to", "kafka://user@localhost", "--password-file", empty + "x"},
		"which kafka:// has not: write kafkas://":                     {"--to", "kafka://localhost", "--to-ca", ours.ca},
		`Config.Topic is "a b": there are {aggregatetype} and {type}`: {"--to", "kafka://localhost", "--topic", "a b"},
	} {
		r := cli(t, "sqlite:/nowhere/x.db", append([]string{"relay"}, args...)...)
		require.Equal(t, 2, r.status)
		require.Contains(t, r.stderr, said)
		require.NotContains(t, r.stderr, "hunter2")
	}
}

// A cluster that refuses the password is an outage with its reason.
func TestKafkaThatRefusesThePassword(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL())
	require.NoError(t, err)
	defer cluster.Close()
	d := &destination{to: "kafka://relay:hunter2@" + cluster.ListenAddrs()[0], source: "test", kafka: kafkaFlags{topic: "events", sasl: "scram-sha-512"}}
	o, err := d.open(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer o.close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err = o.answers(ctx)
	require.ErrorContains(t, err, "the last connection to a broker failed")
	require.NotContains(t, err.Error(), "hunter2")
	require.Equal(t, "kafka://"+cluster.ListenAddrs()[0], o.place)
}
