package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const module = "github.com/endstate-go/endstate"

// rule says what packages must not depend on, even indirectly, outside of their tests.
type rule struct {
	packages  []string // with everything below them
	except    []string // packages for use in tests
	forbidden []string // with everything below them
	why       string
}

// rules are checked against the packages' non-test files.
func rules() []rule {
	library := []string{module + "/guard", module + "/outbox", module + "/lock", module + "/finalize", module + "/cmd"}
	return []rule{
		{
			packages: library,
			except:   []string{module + "/guard/guardtest", module + "/lock/locktest", module + "/outbox/outboxtest"},
			forbidden: []string{"github.com/stretchr/testify", "go.uber.org/goleak", "testing", "modernc.org/sqlite",
				module + "/internal/dbtest", module + "/internal/testserver", module + "/internal/pgfault"},
			why: "it is for tests, and would end up in every user's binary",
		},
		{[]string{module + "/guard"}, nil, []string{module + "/outbox", module + "/lock", module + "/finalize"}, "dependencies point one way: finalize to guard and outbox"},
		{[]string{module + "/outbox"}, nil, []string{module + "/guard", module + "/lock", module + "/finalize"}, "dependencies point one way: finalize to guard and outbox"},
		{[]string{module + "/lock"}, nil, []string{module + "/guard", module + "/outbox", module + "/finalize"}, "the lock knows nothing of what it locks"},
		{[]string{module + "/finalize", module + "/guard"}, nil, []string{"github.com/redis", "github.com/bsm", module + "/lock"}, "the lock is optional"},
	}
}

type listed struct {
	ImportPath string
	Deps       []string
}

// brokenImports returns a line for each package that depends on what a rule forbids.
func brokenImports(ctx context.Context) ([]string, error) {
	out, err := output(ctx, ".", "go", "list", "-deps", "-json=ImportPath,Deps", "./...")
	if err != nil {
		return nil, err
	}
	var broken []string
	for decoder := json.NewDecoder(strings.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			slices.Sort(broken)
			return broken, nil
		} else if err != nil {
			return nil, err
		}
		broken = append(broken, check(p, rules())...)
	}
}

func check(p listed, rules []rule) []string {
	var broken []string
	for _, r := range rules {
		if !below(p.ImportPath, r.packages) || below(p.ImportPath, r.except) {
			continue
		}
		for _, dep := range p.Deps {
			if below(dep, r.forbidden) {
				broken = append(broken, fmt.Sprintf("%s must not depend on %s: %s", p.ImportPath, dep, r.why))
			}
		}
	}
	return broken
}

// below reports whether path is one of roots or inside of one.
func below(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}
