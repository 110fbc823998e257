package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// newRoot makes the command line. A new command is a line in here and a file of its own.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "endstate",
		Short:         "Finalize exactly once: tables, relay, dead letters, duplicates, and the move of an existing outbox",
		SilenceErrors: true, // run prints them, once
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w (%s --help lists the flags)", err, cmd.CommandPath())
	})
	root.PersistentFlags().StringVar(&a.url, "db", os.Getenv(dbEnv), "database `URL`: postgres://…, sqlite:FILE or a file's path; default: $"+dbEnv)
	root.PersistentFlags().Lookup("db").DefValue = "" // help must not show a password
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(
		newAdopt(a),
		newAudit(a),
		newConsole(a),
		newDoctor(a),
		newMigrate(a),
		newOutbox(a),
		newRelay(a),
		newVersion(a),
	)
	return root
}

// group is a command that only has commands of its own.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return fmt.Errorf("%s needs one of its commands (%s --help lists them)", cmd.CommandPath(), cmd.CommandPath())
	}}
	cmd.AddCommand(commands...)
	return cmd
}
