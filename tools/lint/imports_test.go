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
		{"/guard", module + "/internal/dbtest", true},
		{"/guard/guardtest", "github.com/stretchr/testify/require", false},
		{"/guard/guardtest", "modernc.org/sqlite", false},
		{"/guard/guardtest", module + "/finalize", true},
		{"/finalize", module + "/guard/guardtest", true},
		{"/finalize", module + "/internal/pgfault", true},
		{"/finalize", module + "/internal/testserver", true},
		{"/finalize", "github.com/redis/go-redis/v9", true},
		{"/finalize", module + "/lock", true},
		{"/finalize", module + "/guard", false},
		{"/finalize", module + "/outbox", false},
		{"/finalize", "testing", true},
		{"/finalize", "testing/fstest", true},
		{"/lock", "github.com/redis/go-redis/v9", true},
		{"/lock/lockredis", "github.com/redis/go-redis/v9", false},
		{"/outbox/inbox", "github.com/redis/go-redis/v9", true},
		{"/outbox/inbox/inboxredis", "github.com/redis/go-redis/v9", false},
		{"/outbox/relay", "github.com/nats-io/nats.go", true},
		{"/outbox", "github.com/jackc/pgx/v5/pgxpool", false},
		{"/outbox/webhook", "vendor/golang.org/x/net/http/httpguts", false},
		{"/lock", module + "/guard", true},
		{"/outbox", module + "/guard", true},
		{"/outbox", module + "/lock", true},
		{"/outbox/inbox", module + "/finalize", true},
		{"/outbox/inbox", "github.com/redis/go-redis/v9", true},
		{"/outbox/webhook", "github.com/redis/go-redis/v9", true},
		{"/outbox/inbox/inboxredis", "github.com/redis/go-redis/v9", false},
		{"/outbox/redisstream", "github.com/redis/go-redis/v9", false},
		{"/outbox", "modernc.org/sqlite/lib", true},
		{"/cmd/endstate", "go.uber.org/goleak", true},
		{"/cmd/endstate", module + "/finalize", false},
		{"/examples/quickstart", "modernc.org/sqlite", false},
		{"/internal/dbtest", "github.com/stretchr/testify/require", false},
	} {
		got := imports{module + tt.pkg: {"context", tt.dep}}.broken(rules())
		require.Equal(t, tt.broken, len(got) > 0, "%s importing %s: %v", tt.pkg, tt.dep, got)
	}
}

func TestRulesCatchIndirectImports(t *testing.T) {
	got := imports{
		module + "/finalize":       {"context", module + "/guard", module + "/internal/sqltx"},
		module + "/guard":          {module + "/internal/sqltx"},
		module + "/internal/sqltx": {"strings", "modernc.org/sqlite"},
	}.broken([]rule{{below("finalize", "guard"), under("modernc.org/sqlite"), "the caller chooses"}})
	require.Equal(t, []string{
		module + "/finalize -> " + module + "/internal/sqltx -> modernc.org/sqlite must not be imported: the caller chooses",
		module + "/guard -> " + module + "/internal/sqltx -> modernc.org/sqlite must not be imported: the caller chooses",
	}, got)
}
