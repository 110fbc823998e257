package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/licensecheck"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// permitted are the licences under which a dependency may be: those that ask of a service no more than a notice, or, as
// MPL-2.0 does, the source of the changed files of the dependency itself.
var permitted = []string{"MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC", "MPL-2.0", "Unlicense", "CC0-1.0"}

// checkLicences finds dependencies of the modules, outside of tests, without a licence or with one that isn't permitted.
func checkLicences(ctx context.Context, out io.Writer, tagged []workspace.Module) (findings []string, err error) {
	dirs := map[string]string{}
	for _, m := range tagged {
		list := exec.CommandContext(ctx, "go", "list", "-deps", "-json=Module", "./...")
		list.Dir = m.Dir
		text, err := workspace.Output(list)
		if err != nil {
			return nil, err
		}
		for decoder := json.NewDecoder(strings.NewReader(text)); ; {
			var p struct {
				Module *struct {
					Path, Dir string
					Main      bool
				}
			}
			if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("read go list: %w", err)
			}
			if p.Module != nil && !p.Module.Main {
				dirs[p.Module.Path] = p.Module.Dir
			}
		}
	}
	count := map[string]int{}
	for path, dir := range dirs {
		licences, err := licencesIn(dir)
		if err != nil {
			return nil, err
		}
		if len(licences) == 0 {
			findings = append(findings, path+" has no licence that is known")
		}
		for _, l := range licences {
			count[l]++
			if !slices.Contains(permitted, l) {
				findings = append(findings, fmt.Sprintf("%s is under %s, which is not permitted", path, l))
			}
		}
	}
	slices.Sort(findings)
	fmt.Fprintf(out, "  %d dependencies: %v\n", len(dirs), count)
	return findings, nil
}

// licencesIn returns the licences, by their names in SPDX, of the files in a folder that say them.
func licencesIn(dir string) (licences []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || !strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") && !strings.HasPrefix(name, "UNLICENSE") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		for _, match := range licensecheck.Scan(text).Match {
			if !match.IsURL {
				licences = append(licences, match.ID)
			}
		}
	}
	slices.Sort(licences)
	return slices.Compact(licences), nil
}
