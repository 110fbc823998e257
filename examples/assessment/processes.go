package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// spawn runs this program again as the processes of the service, all on one database. They wait for each other, so when one
// fails the others are stopped.
func spawn(ctx context.Context, o options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for i := range o.processes {
		group.Go(func() {
			cmd := exec.CommandContext(ctx, self,
				"-batches", fmt.Sprint(o.batches), "-comparisons", fmt.Sprint(o.comparisons), "-workers", fmt.Sprint(o.workers),
				"-processes", fmt.Sprint(o.processes), "-seed", fmt.Sprint(o.seed),
				"-scoring", o.scoring.String(), "-lock", o.lock,
				"-child-guard", o.guard, "-child-dir", o.dir, "-child", fmt.Sprint(i+1))
			cmd.Env = append(os.Environ(), dbEnv+"="+o.db, redisEnv+"="+o.redis)
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			cmd.WaitDelay = 5 * time.Second
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil {
				cancel(fmt.Errorf("process %d: %w: %s", i+1, err, bytes.TrimSpace(out.Bytes())))
			}
		})
	}
	group.Wait()
	return context.Cause(ctx) // the first error
}

// runChild is one process of the service.
func runChild(ctx context.Context, o options, tampered tamper) error {
	store, err := openStore(o)
	if err != nil {
		return err
	}
	defer store.Close()
	return work(ctx, store, o, tampered)
}
