package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
)

// newOutboxPurge is the command that deletes published events.
func newOutboxPurge(a *app, writer *outbox.Writer) *cobra.Command {
	var olderThan time.Duration
	cmd := &cobra.Command{
		Use:   "purge --older-than DURATION",
		Short: "Delete events that were published long ago",
		Long: `Delete events that were published long ago, in small batches that stop no relay. Events that aren't published, and dead
letters, stay. The deduplication of deleted events ends, save what the ledger keeps.`,
		Example: "  endstate outbox purge --older-than 720h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("older-than") {
				return errors.New("give --older-than, such as 720h; 0s deletes all that is published")
			}
			return a.outboxPurge(cmd.Context(), writer, olderThan)
		},
	}
	cmd.Flags().DurationVar(&olderThan, "older-than", 0, "the `DURATION` for which published events stay")
	return cmd
}

func (a *app) outboxPurge(ctx context.Context, writer *outbox.Writer, olderThan time.Duration) error {
	admin, db, err := a.admin(ctx, writes, writer)
	if err != nil {
		return err
	}
	defer db.close()
	progress := a.progress()
	progress.busy("purge")
	deleted, err := admin.Purge(ctx, olderThan)
	progress.end()
	if err != nil {
		if deleted > 0 {
			err = fmt.Errorf("%s deleted, then: %w", count(deleted, "event"), err)
		}
		return err
	}
	result := struct {
		Deleted int64 `json:"deleted"`
	}{deleted}
	return a.print(result, func(w io.Writer) { fmt.Fprintf(w, "%s deleted\n", count(deleted, "event")) })
}
