package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// page is where results are recorded: tables whose first line says what their rows are of.
const page = "docs/compatibility.md"

// result is a row of a table.
type result struct {
	table, name    string // such as "server" and "PostgreSQL 15", or "driver" and a module's path
	version        string
	passed, failed int
	on             time.Time
	by             string // a command
}

// versionOf returns a module's version, as the workspace has it.
func versionOf(ctx context.Context, module string) (string, error) {
	return workspace.Output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", module))
}

// record writes a result into its table, in the place of an earlier one of the same name.
func record(file string, r result) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed, err := r.into(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(changed), 0o644)
}

// into returns a page with the result in its table, whose rows are in order.
func (r result) into(text string) (string, error) {
	lines := strings.Split(text, "\n")
	start := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "| "+r.table+" |") })
	if start < 0 || start+1 >= len(lines) {
		return "", fmt.Errorf("it has no table that begins with %q", r.table)
	}
	start += 2 // the names of the columns, and a line
	end := start
	for end < len(lines) && strings.HasPrefix(lines[end], "|") {
		end++
	}
	rows := slices.DeleteFunc(slices.Clone(lines[start:end]), func(row string) bool { return strings.HasPrefix(row, "| "+r.name+" |") })
	rows = append(rows, fmt.Sprintf("| %s | %s | %d | %d | %s | `%s` |", r.name, r.version, r.passed, r.failed, r.on.UTC().Format(time.DateOnly), r.by))
	slices.Sort(rows)
	return strings.Join(slices.Concat(lines[:start], rows, lines[end:]), "\n"), nil
}
