package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	neturl "net/url"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

const (
	connections     = 8
	wideConnections = 64
	roomy           = 400_000
	finalRows       = 100_000 // more than a cache holds, and asked for in turn: each is a first loss in this process
	state           = "COMPLETE_STABLE"
	eventType       = "assessment.completed"
)

var errLost = errors.New("an open aggregate was lost, or a final one won")

func payload() []byte { return []byte(`{"batch":"b","status":"COMPLETE_STABLE","essays":42}`) }

// traceparent is the header that a service's events carry as a rule: its trace's.
const (
	traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	headers     = `{"traceparent": "` + traceparent + `"}`
)

// traced is the outbox as a service with traces writes it.
var traced = outbox.Writer{Headers: func(context.Context) map[string]string { return map[string]string{"traceparent": traceparent} }}

func outcome() finalize.Outcome {
	return finalize.Outcome{State: state, Events: []outbox.Event{{Type: eventType, Payload: payload()}}}
}

type finalizer = finalize.Finalizer[pgx.Tx]

// world is the database that both sides work on.
type world struct {
	url        string
	pool, wide *pgxpool.Pool
	status     *finalizer            // as New makes it
	alone      map[string]*finalizer // by guard, without cache and groups
	base, used int64                 // a slice's aggregates follow base: the cache knows those of earlier slices to be final
	room       int                   // for how many more until the tables are emptied
	finalReady bool
	keep       bool // the tables are never emptied
	filled     int  // how many events fill and its like have written
	// subscription is the relays'.
	subscription string
}

// byStatus, byLedger and byBoth name the guards.
const (
	byStatus = "status"
	byLedger = "ledger"
	byBoth   = "all"
)

func newWorld(ctx context.Context, server string) (*world, error) {
	w := &world{url: server, alone: map[string]*finalizer{}, subscription: "bench"}
	var err error
	if w.pool, err = newPool(ctx, server, connections); err != nil {
		return nil, err
	}
	if w.wide, err = newPool(ctx, server, wideConnections); err != nil {
		return nil, err
	}
	if _, err := w.pool.Exec(ctx, "CREATE TABLE IF NOT EXISTS batches (id bigint PRIMARY KEY, status text NOT NULL)"); err != nil {
		return nil, err
	}
	for name, g := range guards() {
		cfg := &finalize.Config{Outbox: traced, Aggregate: "batch", Guard: g, Logger: slog.New(slog.DiscardHandler)}
		if name == byStatus {
			if w.status, err = finalize.New(w.pool, cfg); err != nil {
				return nil, err
			}
		}
		cfg.Cache.Off, cfg.Group.Off = true, true
		if w.alone[name], err = finalize.New(w.pool, cfg); err != nil {
			return nil, err
		}
	}
	return w, w.alone[byBoth].Migrate(ctx)
}

func guards() map[string]guard.Guard {
	status := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}
	return map[string]guard.Guard{byStatus: status, byLedger: guard.Ledger{}, byBoth: guard.All(status, guard.Ledger{})}
}

func newPool(ctx context.Context, server string, size int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(server)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns, cfg.MinConns = size, min(size, connections)
	return pgxpool.NewWithConfig(ctx, cfg)
}

// database makes a further database on the server unless it is there, and returns its URL.
func (w *world) database(ctx context.Context, name string) (url string, there bool, err error) {
	if err := w.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&there); err != nil {
		return "", false, err
	}
	if !there {
		if _, err := w.pool.Exec(ctx, "CREATE DATABASE "+name); err != nil {
			return "", false, err
		}
	}
	u, err := neturl.Parse(w.url)
	if err != nil {
		return "", false, err
	}
	u.Path = "/" + name
	return u.String(), there, nil
}

func (w *world) close() {
	w.wide.Close()
	w.pool.Close()
}

// id is the key of the n-th aggregate of a slice.
func (w *world) id(n int64) int64 { return w.base + n }

// reset makes the aggregates of a slice: open ones, or ones that both sides find final.
func (w *world) reset(ctx context.Context, l load) error {
	if l.final && w.finalReady {
		return nil
	}
	state, rows := "PENDING", l.rows
	if l.final {
		state, rows = "COMPLETE_STABLE", finalRows
	}
	w.base = w.used
	w.used += int64(rows)
	w.room -= rows
	empty := !w.keep && (w.room < 0 || w.finalReady)
	var statements []string
	if empty {
		statements = append(statements, "TRUNCATE batches, endstate_outbox, endstate_ledger",
			// Some history, lest the planner take the tables for empty ones and scan them.
			`INSERT INTO endstate_ledger SELECT 'other', 'i:' || n, 'COMPLETE', 'bench', gen_random_uuid(), NULL, now() FROM generate_series(1, 10000) n`)
	}
	statements = append(statements, fmt.Sprintf("INSERT INTO batches SELECT %d + n, CASE WHEN %s THEN 'COMPLETE_STABLE' ELSE '%s' END FROM generate_series(1, %d) n",
		w.base, spread(l.lost), state, rows))
	if l.final {
		statements = append(statements, fmt.Sprintf(
			`INSERT INTO endstate_ledger SELECT 'batch', 'i:' || (%d + n), '%s', 'bench', gen_random_uuid(), NULL, now() FROM generate_series(1, %d) n`, w.base, state, rows))
	}
	if empty {
		statements = append(statements, "VACUUM ANALYZE batches, endstate_ledger, endstate_outbox", "CHECKPOINT")
		w.room = roomy
	}
	for _, s := range statements {
		if _, err := w.pool.Exec(ctx, s); err != nil {
			return err
		}
	}
	w.finalReady = l.final
	return nil
}
