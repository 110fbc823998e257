package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/endstate-go/endstate/outbox/relay"
)

// statsTimeout bounds what /readyz, and the log's figures, ask the database.
const statsTimeout = 5 * time.Second

// serve listens where --http says, until stop is called.
func (r *relaying) serve(ctx context.Context, admin *relay.Admin) (stop func(), err error) {
	if r.http == "" {
		return func() {}, nil
	}
	host, port, err := net.SplitHostPort(r.http)
	if err != nil {
		return nil, fmt.Errorf("--http is %q; write HOST:PORT, such as 127.0.0.1:9090", r.http)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("--http: %w", err)
	}
	unobserve, err := r.metrics.observe(admin)
	if err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", r.metrics.handler)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, req *http.Request) { r.ready(ctx, w, req, admin) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // until it is closed
	r.log.InfoContext(ctx, "relay: serving", "http", listener.Addr().String())
	return func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(ending) != nil {
			_ = server.Close()
		}
		serving.Wait()
		unobserve()
	}, nil
}

// readiness is what /readyz answers of a subscription.
type readiness struct {
	Subscription string `json:"subscription"`
	Ready        bool   `json:"ready"`
	Partitions   int    `json:"partitions"` // that this relay owns; with others at work it may be none
	Why          string `json:"why,omitempty"`
}

// ready answers 200 if each relay has looked at the database, and has a lease there: it owns its share of the partitions, or
// watches those that others own. The lease is told by its id: others may have the same name, and so may the one that a relay left
// behind that was killed. A destination that is away makes no relay unready: another one couldn't reach it either.
func (r *relaying) ready(running context.Context, w http.ResponseWriter, req *http.Request, admin *relay.Admin) {
	ctx, cancel := context.WithTimeout(req.Context(), statsTimeout)
	defer cancel()
	list, err := admin.Stats(ctx)
	status := http.StatusOK
	answer := make([]readiness, len(r.subscriptions))
	for i, s := range r.subscriptions {
		answer[i] = readiness{Subscription: s.cfg.Subscription, Why: "it has no lease yet"}
		lease := s.lease.Load()
		switch {
		case running.Err() != nil:
			answer[i].Why = "it is stopping"
		case err != nil:
			answer[i].Why = r.secrets.redact("the database: " + err.Error())
		default:
			for _, stats := range list {
				at := slices.IndexFunc(stats.Relays, func(info relay.RelayInfo) bool { return lease != nil && info.ID == *lease })
				if stats.Subscription == s.cfg.Subscription && at >= 0 {
					answer[i] = readiness{Subscription: s.cfg.Subscription, Ready: true, Partitions: stats.Relays[at].Partitions}
				}
			}
		}
		if !answer[i].Ready {
			status = http.StatusServiceUnavailable
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // whoever asked may have gone
}
