// Command tidy runs go mod tidy on every module of the workspace, as if those of ours that it requires were published at the
// version to come: by itself, go mod tidy doesn't look at go.work. It is to be run in the folder of go.work.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := tidy(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "tidy:", err)
		os.Exit(1)
	}
}

func tidy(ctx context.Context) error {
	modules, err := workspace.Modules(ctx)
	if err != nil {
		return err
	}
	tagged, err := workspace.Tagged(ctx)
	if err != nil {
		return err
	}
	for _, dir := range modules {
		if err := workspace.Tidy(ctx, dir, tagged); err != nil {
			return fmt.Errorf("module %s: %w", dir, err)
		}
	}
	return nil
}
