package main

import "github.com/spf13/cobra"

// newAudit groups the commands that look for duplicates.
func newAudit(a *app) *cobra.Command {
	return group("audit", "Find the duplicates that are there already",
		newAuditDB(a),
		newAuditLogs(a),
	)
}
