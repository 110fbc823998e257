// Command endstate is the library's command line: it makes the tables, publishes an outbox's events and looks after its dead
// letters, finds the duplicates that an outbox has already, says what is dangerous in a live database, and moves an existing
// outbox over.
//
//	endstate COMMAND --db URL [flags]
//
// URL is postgres://… (or sqlite:FILE, or a SQLite file's path); where --db is missing, ENDSTATE_DB is taken, which keeps a
// password out of the process list. Every command takes --json. Results go to stdout, all else to stderr.
//
// Exit status: 0 ran and found nothing amiss, 1 ran and found something, 2 could not run to its end.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	status := run(ctx, os.Args[1:], &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr})
	stop()
	os.Exit(status)
}

// app is what the commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	url            string // of --db
	json           bool
	secrets        *redactor
	shown          *progress // what is to be removed before a result is printed; nil for none
}

// errFound is returned by a command that ran to its end, and printed something amiss.
var errFound = errors.New("found something")

// orFound is the error of a command that has printed its result, which may show something amiss.
func orFound(err error, amiss bool) error {
	if err == nil && amiss {
		return errFound
	}
	return err
}

// run is main without the process around it. It returns the exit status.
func run(ctx context.Context, args []string, a *app) int {
	a.secrets = newRedactor(args)
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	a.shown.end()
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errFound):
		return 1
	case ctx.Err() != nil:
		err = context.Cause(ctx) // which signal, rather than what it broke off
	}
	// Further lines are those of joined errors; one that an input brought in doesn't look like a message of ours.
	fmt.Fprintln(escapedText{a.stderr}, "endstate:", strings.ReplaceAll(a.secrets.redact(err.Error()), "\n", "\n  "))
	return 2
}
