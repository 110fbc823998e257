package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

const module = "github.com/endstate-go/endstate"

// rule says what packages must not depend on, even indirectly, outside of their own tests.
type rule struct {
	packages  func(path string) bool
	forbidden func(path string) bool
	why       string
}

func rules() []rule {
	production := func(path string) bool {
		return below("guard", "outbox", "lock", "finalize", "migrations", "console", "otelendstate", "cmd")(path) && !testSupport(path) && !strings.Contains(path, "/interop/")
	}
	library := exactly("", "guard", "finalize", "lock", "migrations", "outbox", "outbox/relay", "outbox/inbox", "outbox/webhook", "outbox/cloudevents", "console")
	return []rule{
		{production, forTests, "it is for tests, and would end up in every user's binary"},
		{production, under("modernc.org/sqlite", "github.com/mattn/go-sqlite3"), "the caller chooses the SQLite driver"},
		{func(path string) bool { return path == module }, below("guard", "outbox", "lock", "finalize", "migrations", "console", "otelendstate", "cmd"), "all of them import the root package"},
		{below("guard"), below("outbox", "lock", "finalize", "console", "cmd"), "dependencies point from finalize to guard and outbox"},
		{below("outbox"), below("guard", "lock", "finalize", "console", "cmd"), "dependencies point from finalize to guard and outbox"},
		{below("lock"), below("guard", "outbox", "finalize", "console", "cmd"), "the lock knows nothing of what it locks"},
		{below("finalize"), below("lock", "console", "cmd"), "finalize takes any lock, by an interface of its own"},
		{library, outside(allowed...), "users of a library compile what it imports: what it may import stands in tools/lint/imports.go"},
		{exactly("otelendstate"), func(path string) bool {
			return outside(append(telemetry, allowed...)...)(path) || under("go.opentelemetry.io/otel/sdk")(path)
		}, "it is of OpenTelemetry's API, and the caller chooses the SDK and the brokers"},
		{exactly("outbox/outboxwatermill"), outside(append(watermill, allowed...)...), "the caller chooses which of Watermill's publishers it compiles"},
		{withoutRedis, under("github.com/redis"), "Redis is optional: only its own packages import its client"},
	}
}

// withoutRedis reports whether a package is of the outbox and not about Redis.
func withoutRedis(path string) bool {
	return below("outbox")(path) && !below("outbox/redisstream", "outbox/inbox/inboxredis")(path)
}

// allowed are the modules that everybody compiles who finalizes, publishes or consumes, besides this one: the driver, with what
// it imports itself, and three small libraries. A client of a broker or of Redis stands in a package of its own.
var allowed = []string{
	module,
	"github.com/jackc/pgx/v5", "github.com/jackc/pgpassfile", "github.com/jackc/pgservicefile", "github.com/jackc/puddle/v2",
	"golang.org/x/sync", "golang.org/x/text",
	"github.com/google/uuid", "github.com/cenkalti/backoff/v5", "github.com/hashicorp/golang-lru/v2",
}

// telemetry are the modules that OpenTelemetry's API is, and is made of.
var telemetry = []string{"go.opentelemetry.io", "github.com/cespare/xxhash/v2", "github.com/go-logr/logr", "github.com/go-logr/stdr"}

// watermill are the modules that Watermill's messages are, and are made of.
var watermill = []string{"github.com/ThreeDotsLabs/watermill", "github.com/lithammer/shortuuid/v3", "github.com/oklog/ulid", "github.com/pkg/errors"}

// forTests reports whether a package is only for tests.
func forTests(path string) bool {
	return testSupport(path) || below("internal/testserver", "internal/pgfault")(path) ||
		under("testing", "github.com/stretchr/testify", "go.uber.org/goleak")(path)
}

// testSupport reports whether a package of ours is for tests by its name: dbtest, and exported ones such as guardtest.
func testSupport(p string) bool { return below("")(p) && strings.HasSuffix(path.Base(p), "test") }

// below returns whether a package is in one of the module's folders.
func below(folders ...string) func(path string) bool {
	roots := make([]string, len(folders))
	for i, folder := range folders {
		roots[i] = path.Join(module, folder)
	}
	return under(roots...)
}

// exactly returns whether a package is in one of the module's folders, and not deeper.
func exactly(folders ...string) func(path string) bool {
	return func(p string) bool {
		return slices.ContainsFunc(folders, func(folder string) bool { return p == path.Join(module, folder) })
	}
}

// outside returns whether a package belongs neither to the standard library nor to one of the roots.
func outside(roots ...string) func(path string) bool {
	inside := under(roots...)
	return func(path string) bool {
		first, _, _ := strings.Cut(path, "/")
		return strings.Contains(first, ".") && !inside(path)
	}
}

// under returns whether a package is one of the roots or inside of one.
func under(roots ...string) func(path string) bool {
	return func(path string) bool {
		return slices.ContainsFunc(roots, func(root string) bool {
			return path == root || strings.HasPrefix(path, root+"/")
		})
	}
}

// imports is what packages import, by their paths, outside of their tests.
type imports map[string][]string

// brokenImports checks the rules on the module in the current folder, and returns a line for each dependency that breaks one.
func brokenImports(ctx context.Context) ([]string, error) {
	out, err := workspace.Output(exec.CommandContext(ctx, "go", "list", "-deps", "-json=ImportPath,Imports", "./..."))
	if err != nil {
		return nil, err
	}
	imports := imports{}
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return imports.broken(rules()), nil
		} else if err != nil {
			return nil, fmt.Errorf("read go list: %w", err)
		}
		imports[p.ImportPath] = p.Imports
	}
}

// broken returns a line for each package and rule that it breaks, with the shortest way to a forbidden package.
func (imports imports) broken(rules []rule) []string {
	var lines []string
	for pkg := range imports {
		for _, r := range rules {
			if !r.packages(pkg) {
				continue
			}
			if way := imports.way(pkg, r.forbidden); way != nil {
				lines = append(lines, fmt.Sprintf("%s must not be imported: %s", strings.Join(way, " -> "), r.why))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

// way returns the shortest way from a package to one that it depends on and that match accepts, or nil.
func (imports imports) way(from string, match func(string) bool) []string {
	came := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range imports[queue[0]] {
			if _, seen := came[next]; seen {
				continue
			}
			came[next] = queue[0]
			if match(next) {
				way := []string{next}
				for p := queue[0]; p != ""; p = came[p] {
					way = append([]string{p}, way...)
				}
				return way
			}
			queue = append(queue, next)
		}
	}
	return nil
}
