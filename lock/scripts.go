package lock

import (
	"context"
	_ "embed"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed obtain.lua
	obtainSource string
	//go:embed release.lua
	releaseSource string

	obtain  = redis.NewScript(obtainSource)
	release = redis.NewScript(releaseSource)
)

// obtainScript is the client that redislock's Obtain gets: it runs obtain.lua in place of redislock's own script, with the
// same arguments, and keeps what it says besides.
type obtainScript struct {
	redis.Scripter
	fence int64  // of the lock that was taken
	value string // of the lock that another holds
}

// EvalSha implements redislock.RedisClient.
func (s *obtainScript) EvalSha(ctx context.Context, _ string, keys []string, args ...any) *redis.Cmd {
	return s.read(obtain.EvalSha(ctx, s.Scripter, keys, args...))
}

// Eval implements redislock.RedisClient.
func (s *obtainScript) Eval(ctx context.Context, _ string, keys []string, args ...any) *redis.Cmd {
	return s.read(obtain.Eval(ctx, s.Scripter, keys, args...))
}

// read makes redislock's reply of obtain.lua's: nil when another holds the lock.
func (s *obtainScript) read(reply *redis.Cmd) *redis.Cmd {
	switch v := reply.Val().(type) {
	case int64:
		s.fence = v
	case string:
		s.value = v
		reply.SetErr(redis.Nil)
	}
	return reply
}
