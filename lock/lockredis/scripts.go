package lockredis

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// scripts are what Redis does in one trip each.
var (
	//go:embed obtain.lua
	obtainSource string
	//go:embed renew.lua
	renewSource string
	//go:embed release.lua
	releaseSource string

	obtain  = redis.NewScript(obtainSource)
	renew   = redis.NewScript(renewSource)
	release = redis.NewScript(releaseSource)
)

// take takes a lock, and returns its fencing token. If another holds it that is 0, and others is that one's value.
func (l *Lock) take(ctx context.Context, name, token, holder string) (fence int64, others string, err error) {
	reply, err := obtain.Run(ctx, l.client, []string{name}, token+holder, len(token), l.cfg.TTL.Milliseconds()).Result()
	switch v := reply.(type) {
	case int64:
		return v, "", err
	case string:
		return 0, v, err
	}
	if err == nil {
		err = fmt.Errorf("redis answered with %T", reply)
	}
	return 0, "", err
}

// extend begins the TTL of a lock anew. It returns errNotHeld if the lock is gone or another's.
func (l *Lock) extend(ctx context.Context, name, value string) error {
	return held(renew.Run(ctx, l.client, []string{name}, value, l.cfg.TTL.Milliseconds()))
}

// compareAndDelete gives a lock back. It returns errNotHeld if the lock is gone or another's.
func (l *Lock) compareAndDelete(ctx context.Context, name, value string) error {
	return held(release.Run(ctx, l.client, []string{name}, value, !l.cfg.NoWakeUp))
}

func held(reply *redis.Cmd) error {
	had, err := reply.Bool()
	if err == nil && !had {
		err = errNotHeld
	}
	return err
}
