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

// take takes the lock, or learns who has it.
func (a *attempt) take(ctx context.Context) error {
	l := a.lock
	reply, err := obtain.Run(ctx, l.client, []string{a.name}, a.value, len(a.token), l.cfg.TTL.Milliseconds(), a.listens).Result()
	a.fence, a.others = 0, ""
	switch v := reply.(type) {
	case int64:
		a.fence = v
	case string:
		a.others = v
	default:
		if err == nil {
			err = fmt.Errorf("redis answered with %T", reply)
		}
	}
	return err
}

// extend begins the lock's TTL anew. It returns errNotHeld if the lock is gone or another's.
func (a *attempt) extend(ctx context.Context) error {
	return held(renew.Run(ctx, a.lock.client, []string{a.name}, a.value, a.lock.cfg.TTL.Milliseconds()))
}

// giveBack deletes the lock. It returns errNotHeld if the lock is gone or another's.
func (a *attempt) giveBack(ctx context.Context) error {
	return held(release.Run(ctx, a.lock.client, []string{a.name}, a.value))
}

func held(reply *redis.Cmd) error {
	had, err := reply.Bool()
	if err == nil && !had {
		err = errNotHeld
	}
	return err
}
