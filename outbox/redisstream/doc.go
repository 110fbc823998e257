// Package redisstream publishes events to Redis Streams.
package redisstream
