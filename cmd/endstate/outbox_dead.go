package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// newOutboxRetry is the command that makes dead letters pending again.
func newOutboxRetry(a *app, writer *outbox.Writer) *cobra.Command {
	cmd := newIntervention(a, writer, intervention{"retry", "pending again", (*relay.Admin).Retry})
	cmd.Short = "Make dead letters pending again; who did it, and why, is recorded"
	cmd.Long = `Make dead letters pending again, with their attempts counted anew. Who did it, and why, is recorded; outbox show has it.
Later events of the same aggregate may have been published meanwhile.

Exit status: 0 all are pending again, 1 some of the events aren't dead and were left as they are, 2 could not run to its end.`
	cmd.Example = `  endstate outbox retry 0199a9c4-8a3e-7cc1-b9ef-7f3c6fb1d1a4 --by ann --reason 'the broker takes 2 MB now'
  endstate outbox retry --all --type order.paid --by ann --reason 'the receiver is fixed'`
	return cmd
}

// newOutboxDiscard is the command that deletes dead letters.
func newOutboxDiscard(a *app, writer *outbox.Writer) *cobra.Command {
	cmd := newIntervention(a, writer, intervention{"discard", "discarded", (*relay.Admin).Discard})
	cmd.Short = "Give up dead letters; who did it, and why, is recorded"
	cmd.Long = `Give up dead letters: the subscription's consumers will not get these events. The events themselves stay in the log until
retention deletes them. Who did it, and why, is recorded.

Exit status: 0 all are discarded, 1 some of the events aren't dead and were left as they are, 2 could not run to its end.`
	return cmd
}

// intervention is what can be done with dead letters.
type intervention struct {
	name, done string
	do         func(a *relay.Admin, ctx context.Context, by relay.By, ids ...uuid.UUID) ([]uuid.UUID, error)
}

func newIntervention(a *app, writer *outbox.Writer, what intervention) *cobra.Command {
	var all bool
	var filter relay.Filter
	var by relay.By
	cmd := &cobra.Command{
		Use: what.name + " (ID... | --all)",
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := parseIDs(args)
			if err != nil {
				return err
			}
			switch narrowed := filter != (relay.Filter{}); {
			case all == (len(ids) > 0):
				return errors.New("give either the ids of events, or --all")
			case narrowed && !all:
				return errors.New("--type, --aggregate-type, --aggregate-id, --error and --older-than go with --all")
			}
			return a.intervene(cmd.Context(), writer, what, ids, filter, by)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all dead letters, or those that the other flags say")
	filterFlags(cmd, &filter)
	byFlags(cmd, &by)
	return cmd
}

func (a *app) intervene(ctx context.Context, writer *outbox.Writer, what intervention, ids []uuid.UUID, filter relay.Filter, by relay.By) error {
	admin, db, err := a.admin(ctx, writes, writer)
	if err != nil {
		return err
	}
	defer db.close()
	named := len(ids) > 0
	if !named {
		if ids, err = deadLetters(ctx, admin, by.Subscription, filter); err != nil {
			return err
		}
	}
	done, err := what.do(admin, ctx, by, ids...)
	if err != nil {
		if len(done) > 0 {
			err = fmt.Errorf("%s %s, then: %w", count(len(done), "dead letter"), what.done, err)
		}
		return err
	}
	changed := make(map[uuid.UUID]bool, len(done))
	for _, id := range done {
		changed[id] = true
	}
	result := struct {
		Done []uuid.UUID `json:"done"`
		Left []uuid.UUID `json:"left"` // weren't dead
	}{append([]uuid.UUID{}, done...), []uuid.UUID{}}
	for _, id := range ids {
		if !changed[id] {
			result.Left = append(result.Left, id)
		}
	}
	if err := a.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s\n", count(len(done), "dead letter"), what.done)
		for _, id := range result.Left {
			fmt.Fprintf(w, "not dead, or not there: %s\n", id)
		}
	}); err != nil {
		return err
	}
	if named && len(result.Left) > 0 {
		return errFound
	}
	return nil
}

// deadLetters returns the ids of all that a filter says.
func deadLetters(ctx context.Context, admin *relay.Admin, subscription string, filter relay.Filter) ([]uuid.UUID, error) {
	filter.Subscription, filter.State, filter.Limit = subscription, relay.Dead, 1000
	var ids []uuid.UUID
	for {
		page, err := admin.List(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Records {
			ids = append(ids, r.ID)
		}
		if filter.After = page.Next; page.Next == 0 {
			return ids, nil
		}
	}
}
