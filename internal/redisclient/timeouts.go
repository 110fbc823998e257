// Package redisclient is what the packages that are given a client of Redis share.
package redisclient

import (
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/internal/isnil"
)

// Check refuses a client that is nil, or that would wait forever for a server that hangs, whatever the context's deadline.
func Check(client redis.UniversalClient) error {
	if isnil.Any(client) {
		return errors.New("the Redis client is nil")
	}
	var none bool
	switch c := client.(type) {
	case *redis.Client:
		none = c.Options().ReadTimeout <= 0 || c.Options().WriteTimeout <= 0
	case *redis.ClusterClient:
		none = c.Options().ReadTimeout <= 0 || c.Options().WriteTimeout <= 0
	case *redis.Ring: // where zero still stands for the default
		none = c.Options().ReadTimeout < 0 || c.Options().WriteTimeout < 0
	}
	if none {
		return errors.New("the client has no ReadTimeout or no WriteTimeout, and would wait forever for a server that hangs")
	}
	return nil
}
