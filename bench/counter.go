package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// counter tells when so many were counted.
type counter struct {
	left atomic.Int64
	done chan struct{}
	once sync.Once
}

func newCounter(n int) *counter {
	c := &counter{done: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *counter) add(n int) {
	if c.left.Add(-int64(n)) <= 0 {
		c.end()
	}
}

// end ends the wait, also if nobody counts any longer.
func (c *counter) end() { c.once.Do(func() { close(c.done) }) }

func (c *counter) wait(ctx context.Context) error {
	select {
	case <-c.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if left := c.left.Load(); left > 0 {
		return fmt.Errorf("%d events were not published", left)
	}
	return nil
}
