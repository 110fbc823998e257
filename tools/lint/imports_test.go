package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRulesCatchForbiddenImports(t *testing.T) {
	for _, tt := range []struct {
		pkg, dep string
		broken   bool
	}{
		{"/guard", "github.com/stretchr/testify/require", true},
		{"/guard/guardtest", "github.com/stretchr/testify/require", false},
		{"/finalize", "github.com/redis/go-redis/v9", true},
		{"/lock", "github.com/redis/go-redis/v9", false},
		{"/outbox", "github.com/endstate-go/endstate/guard", true},
		{"/finalize", "github.com/endstate-go/endstate/guard", false},
		{"/outbox", "modernc.org/sqlite/lib", true},
		{"/examples/quickstart", "modernc.org/sqlite", false},
		{"/finalize", "testing", true},
		{"/finalize", "testing/fstest", true},
	} {
		got := check(listed{ImportPath: module + tt.pkg, Deps: []string{"context", tt.dep}}, rules())
		require.Equal(t, tt.broken, len(got) > 0, "%s importing %s: %v", tt.pkg, tt.dep, got)
	}
}
