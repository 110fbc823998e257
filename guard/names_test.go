package guard_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hostileNames are names that PostgreSQL and SQLite can hold, and that break SQL which doesn't quote them.
var hostileNames = []string{
	"Mixed Case",
	`quo"te`,
	`sing'le`,
	"semi;colon",
	`x"; DROP TABLE batches; --`,
	`x'); DROP TABLE batches; --`,
	"select",
	"$1 $2 $3",
	"?1 ?2 ?",
	"%s %d",
	`back\slash`,
	"naïve Überstatus",
	"comment -- /* */",
	"{{table}} $protect$",
	"new\nline",
	strings.Repeat("n", 63),
	strings.Repeat("é", 31),
}

// gooseStatements reads a migration the way goose does, strictly: annotations each on a line of their own, Up before Down,
// every statement between StatementBegin and StatementEnd, nothing but comments outside.
func gooseStatements(t testing.TB, text string) (up, down []string) {
	t.Helper()
	var half *[]string
	var statement *strings.Builder
	for line := range strings.Lines(text) {
		annotation, isAnnotation := strings.CutPrefix(strings.TrimSpace(line), "-- +goose ")
		switch {
		case isAnnotation && annotation == "Up":
			require.Nil(t, half, "Up comes first, and once")
			half = &up
		case isAnnotation && annotation == "Down":
			require.Same(t, &up, half, "Down comes after Up")
			require.Nil(t, statement, "a statement does not end before Down")
			half = &down
		case isAnnotation && annotation == "StatementBegin":
			require.NotNil(t, half, "a statement before Up")
			require.Nil(t, statement, "a statement in a statement")
			statement = new(strings.Builder)
		case isAnnotation && annotation == "StatementEnd":
			require.NotNil(t, statement, "an end without a beginning")
			require.NotEmpty(t, strings.TrimSpace(statement.String()))
			*half = append(*half, statement.String())
			statement = nil
		case isAnnotation:
			require.Fail(t, "unknown annotation", line)
		case statement != nil:
			statement.WriteString(line)
		default:
			outside := strings.TrimSpace(line)
			require.True(t, outside == "" || strings.HasPrefix(outside, "--"), "outside of a statement: %s", line)
		}
	}
	require.Nil(t, statement, "a statement does not end")
	require.NotEmpty(t, up)
	require.NotEmpty(t, down)
	return up, down
}
