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

// forNestedTests are what is internal to the root and still used by tests of the command: nobody builds those but from this
// tree, where the root is the same.
var forNestedTests = []string{"internal/dbtest", "internal/pgfault"}

// brokenNested returns a line for each package of a nested module that imports something internal to the root, in tests too:
// a service may have a nested module beside a newer root, in which internal names are others.
func brokenNested(ctx context.Context, tagged []workspace.Module) (lines []string, err error) {
	root := tagged[0].Path
	for _, m := range tagged[1:] {
		list := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
		list.Dir = m.Dir
		out, err := workspace.Output(list)
		if err != nil {
			return nil, err
		}
		for decoder := json.NewDecoder(strings.NewReader(out)); ; {
			var p struct {
				ImportPath                         string
				Imports, TestImports, XTestImports []string
			}
			if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("read go list: %w", err)
			}
			for _, imported := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
				inRoot := strings.HasPrefix(imported, root+"/internal/")
				tested := !slices.Contains(p.Imports, imported) && m.Path == root+"/cmd/endstate" &&
					slices.ContainsFunc(forNestedTests, func(name string) bool { return imported == path.Join(root, name) })
				if line := fmt.Sprintf("%s imports %s, which may be another one beside a newer root", p.ImportPath, imported); inRoot && !tested && !slices.Contains(lines, line) {
					lines = append(lines, line)
				}
			}
		}
	}
	return lines, nil
}
