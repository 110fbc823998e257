package inboxredis

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/internal/redisclient"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// A claim's life at one key, decided by the scripts:
//
//	(none) ── claim ──> claimed ── handle ──> handled ── retention ──> (none)
//	                      │  ↑ renew
//	                      └── release, or the lease's end after the process died ──> (none)
//
// Each step but the first names the claim's token, and does nothing where another delivery's is.
var (
	//go:embed claim.lua
	claimText string
	//go:embed renew.lua
	renewText string
	//go:embed handle.lua
	handleText string
	//go:embed release.lua
	releaseText string

	claimScript   = redis.NewScript(claimText)
	renewScript   = redis.NewScript(renewText)
	handleScript  = redis.NewScript(handleText)
	releaseScript = redis.NewScript(releaseText)
)

// The states of a record.
const (
	claimed = "claimed"
	handled = "handled"
)

// Store keeps claims in Redis, each in a hash of its own. It is safe for concurrent use.
type Store struct {
	client redis.UniversalClient
	prefix string
}

var _ inbox.ClaimStore = (*Store)(nil)

// DefaultPrefix begins every key unless New is told another prefix.
const DefaultPrefix = "endstate:inbox"

// New returns a Store on a client, which stays the caller's to close. Every key in Redis is the prefix (DefaultPrefix where
// it is empty), a colon, and the claim's key. It sends nothing. A client without ReadTimeout or WriteTimeout is refused.
func New(client redis.UniversalClient, prefix string) (*Store, error) {
	if err := redisclient.Check(client); err != nil {
		return nil, fmt.Errorf("%w: %w", inbox.ErrConfig, err)
	}
	if prefix == "" {
		prefix = DefaultPrefix
	}
	return &Store{client, prefix}, nil
}

func (s *Store) keys(key string) []string { return []string{s.prefix + ":" + key} }

// Claim implements inbox.ClaimStore.
func (s *Store) Claim(ctx context.Context, key string, c inbox.Claim, lease time.Duration) (*inbox.Claim, error) {
	reply, err := claimScript.Run(ctx, s.client, s.keys(key), c.Token, c.EventID, c.Digest, milliseconds(lease)).Slice()
	if err != nil || len(reply) == 0 {
		return nil, err
	}
	return parse(reply)
}

// parse reads what claim.lua returns of another delivery.
func parse(reply []any) (*inbox.Claim, error) {
	var fields [4]string
	for i := range min(len(reply), len(fields)) {
		fields[i], _ = reply[i].(string)
	}
	if state := fields[0]; state != claimed && state != handled {
		return nil, fmt.Errorf("inboxredis: Redis holds a record in state %.40q", state)
	}
	c := &inbox.Claim{Handled: fields[0] == handled, EventID: fields[1], Digest: []byte(fields[2])}
	if len(reply) == len(fields) && reply[3] != nil {
		c.Value = []byte(fields[3])
	}
	return c, nil
}

// Renew implements inbox.ClaimStore.
func (s *Store) Renew(ctx context.Context, key string, c inbox.Claim, lease time.Duration) (ours bool, err error) {
	return renewScript.Run(ctx, s.client, s.keys(key), c.Token, c.EventID, c.Digest, milliseconds(lease)).Bool()
}

// Handle implements inbox.ClaimStore.
func (s *Store) Handle(ctx context.Context, key string, c inbox.Claim, retention time.Duration) (ours bool, err error) {
	args := []any{c.Token, c.EventID, c.Digest, milliseconds(retention)}
	if c.Value != nil {
		args = append(args, c.Value)
	}
	return handleScript.Run(ctx, s.client, s.keys(key), args...).Bool()
}

// Release implements inbox.ClaimStore.
func (s *Store) Release(ctx context.Context, key string, c inbox.Claim) error {
	return releaseScript.Run(ctx, s.client, s.keys(key), c.Token).Err()
}

// milliseconds is a duration as Redis counts: at least one, since a key of none is gone at once.
func milliseconds(d time.Duration) int64 { return max(d.Milliseconds(), 1) }
