package guard_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
)

func TestStates(t *testing.T) {
	for _, tt := range []struct {
		states   guard.States
		state    string
		terminal bool
	}{
		{guard.Names("DONE", "FAILED"), "DONE", true},
		{guard.Names("DONE", "FAILED"), "FAILED", true},
		{guard.Names("DONE"), "done", false},
		{guard.Names("DONE"), "DONE ", false},
		{guard.Names("DONE"), "", false},
		{guard.Prefixes("COMPLETE_"), "COMPLETE_STABLE", true},
		{guard.Prefixes("COMPLETE_"), "COMPLETE_", true},
		{guard.Prefixes("COMPLETE_"), "COMPLETEXSTABLE", false},
		{guard.Prefixes("COMPLETE_"), "complete_stable", false},
		{guard.Prefixes("%"), "DONE", false},
		{guard.Prefixes("%"), "%", true},
		{guard.Func(func(s string) bool { return s == "X" }), "X", true},
		{guard.Func(func(s string) bool { return s == "X" }), "x", false},
		{guard.States{}, "DONE", false},
	} {
		require.Equal(t, tt.terminal, tt.states.Terminal(tt.state), "%q", tt.state)
	}
	// What the caller does with its slice later doesn't matter.
	names := []string{"DONE"}
	s := guard.Names(names...)
	names[0] = "OPEN"
	require.True(t, s.Terminal("DONE"))
}

func TestStatusValidateNamesTheField(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		change     func(*guard.Status)
	}{
		{"no table", "Status.Table is empty", func(s *guard.Status) { s.Table = "" }},
		{"long table", "Status.Table is 64 bytes long, PostgreSQL takes 63", func(s *guard.Status) { s.Table = strings.Repeat("x", 64) }},
		{"NUL in table", "Status.Table contains a NUL byte", func(s *guard.Status) { s.Table = "a\x00b" }},
		{"invalid table", "Status.Table is not valid UTF-8", func(s *guard.Status) { s.Table = "\xff" }},
		{"long schema", "Status.Schema is 66 bytes long", func(s *guard.Status) { s.Schema = strings.Repeat("é", 33) }},
		{"NUL in schema", "Status.Schema contains a NUL byte", func(s *guard.Status) { s.Schema = "\x00" }},
		{"no key", "Status.Key and Keys: set one of them", func(s *guard.Status) { s.Key = "" }},
		{"both", "Status.Key and Keys: set one of them", func(s *guard.Status) { s.Keys = []string{"tenant_id", "id"} }},
		{"empty key", "Status.Key is empty", func(s *guard.Status) { s.Key, s.Keys = "", []string{"tenant_id", ""} }},
		{"long key", "Status.Key is 64 bytes", func(s *guard.Status) { s.Key = strings.Repeat("x", 64) }},
		{"one key twice", "Status.Key names \"id\" twice", func(s *guard.Status) { s.Key, s.Keys = "", []string{"id", "id"} }},
		{"no column", "Status.Column is empty", func(s *guard.Status) { s.Column = "" }},
		{"NUL in column", "Status.Column contains a NUL byte", func(s *guard.Status) { s.Column = "\x00" }},
		{"column is key", "Status.Column is a key column", func(s *guard.Status) { s.Column = "id" }},
		{"no states", "Status.Terminal has no terminal states", func(s *guard.Status) { s.Terminal = guard.States{} }},
		{"no names", "Status.Terminal has no terminal states", func(s *guard.Status) { s.Terminal = guard.Names() }},
		{"nil func", "Status.Terminal has no terminal states", func(s *guard.Status) { s.Terminal = guard.Func(nil) }},
		{"empty name", "Status.Terminal has an empty name or prefix", func(s *guard.Status) { s.Terminal = guard.Names("DONE", "") }},
		{"empty prefix", "Status.Terminal has an empty name or prefix", func(s *guard.Status) { s.Terminal = guard.Prefixes("") }},
		{"NUL in name", "Status.Terminal has a name or prefix that contains a NUL byte", func(s *guard.Status) { s.Terminal = guard.Names("\x00") }},
		{"set status", `Status.Set names "status"`, func(s *guard.Status) { s.Set = map[string]any{"status": "x"} }},
		{"set key", `Status.Set names "id"`, func(s *guard.Status) { s.Set = map[string]any{"id": "x"} }},
		{"set empty", "Status.Set is empty", func(s *guard.Status) { s.Set = map[string]any{"": "x"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: terminal}
			require.NoError(t, s.Validate())
			tt.change(&s)
			for _, v := range []guard.Validator{s, guard.All(guard.Ledger{}, s).(guard.Validator)} {
				err := v.Validate()
				require.ErrorIs(t, err, guard.ErrConfig)
				require.ErrorContains(t, err, tt.says)
			}
		})
	}
}

func TestLedgerAndAllValidateNameTheField(t *testing.T) {
	require.NoError(t, guard.Ledger{}.Validate())
	for says, g := range map[string]guard.Guard{
		"Ledger.Table is 64 bytes long":       guard.Ledger{Table: strings.Repeat("x", 64)},
		"Ledger.Schema contains a NUL byte":   guard.Ledger{Schema: "\x00"},
		"Ledger.Table is not valid UTF-8":     guard.Ledger{Table: "\xff"},
		"All has no guards":                   guard.All(),
		"guard 2 of All is nil":               guard.All(guard.Ledger{}, nil),
		"Ledger.Schema is not valid UTF-8":    guard.All(guard.All(guard.Ledger{Schema: "\xff"})),
		"Status.Table is empty":               guard.All(guard.Status{}, guard.Ledger{}),
		"Ledger.Schema is 100 bytes long":     guard.Ledger{Schema: strings.Repeat("x", 100)},
		"Ledger.Table contains a NUL byte":    guard.All(guard.Ledger{Table: "\x00"}),
		"Status.Key and Keys: set one of the": guard.Status{Table: "t"},
	} {
		err := g.(guard.Validator).Validate()
		require.ErrorIs(t, err, guard.ErrConfig)
		require.ErrorContains(t, err, says)
	}
}

func TestMigrationsOfAnUnknownDialect(t *testing.T) {
	for _, dialect := range []string{"", "mysql", "..", "postgres/../..", "Postgres"} {
		_, err := guard.Ledger{}.Migrations(dialect)
		require.ErrorIs(t, err, guard.ErrConfig, dialect)
		require.ErrorContains(t, err, "there are postgres and sqlite", dialect)
	}
}
