package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// faultList is the list of invariants and faults, whose numbers tests cite.
const faultList = "docs/faults.md"

var (
	faultRow    = regexp.MustCompile(`^\| ([FI][1-9][0-9]?) \|`)
	faultNumber = regexp.MustCompile(`\b[FI][1-9][0-9]?\b`)
	testLink    = regexp.MustCompile("\\[`([^`]+)\\.(\\w+)`\\]\\(\\.\\./([^)]+)\\)") // [`finalize.TestX`](../finalize/x_test.go)
)

// testFunction is a function of a test file, with the faults that its comment names.
type testFunction struct {
	file, name string
	faults     []string
}

// brokenFaults returns a line for each row of the list that names neither a test that exists nor that it is open, for each
// number in a test that isn't in the list, and for each test whose comment and whose rows don't name the same faults.
func brokenFaults(root string) (lines []string, err error) {
	text, err := os.ReadFile(filepath.Join(root, faultList))
	if err != nil {
		return nil, err
	}
	functions, cited, err := testFunctions(root)
	if err != nil {
		return nil, err
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(text)) {
		links := testLink.FindAllStringSubmatch(line, -1)
		fault := ""
		if row := faultRow.FindStringSubmatch(line); row != nil {
			if rows[row[1]] = line; row[1][0] == 'F' {
				fault = row[1]
			}
			if len(links) == 0 && !strings.Contains(line, "**open**") {
				lines = append(lines, fmt.Sprintf("%s: %s names no test, and isn't marked **open**", faultList, row[1]))
			}
		}
		for _, link := range links {
			pkg, name, file := link[1], link[2], link[3]
			at := functions[pkg+"."+name]
			if i := slices.IndexFunc(at, func(f testFunction) bool { return f.file == file }); i >= 0 {
				if fault != "" && !slices.Contains(at[i].faults, fault) {
					lines = append(lines, fmt.Sprintf("%s: the comment of %s doesn't name %s, in whose row of %s it stands", file, name, fault, faultList))
				}
			} else {
				where := "is nowhere"
				if len(at) > 0 {
					where = "is in " + at[0].file
				}
				lines = append(lines, fmt.Sprintf("%s: %s.%s isn't in %s; it %s", faultList, pkg, name, file, where))
			}
		}
	}
	for number, file := range cited {
		if _, ok := rows[number]; !ok {
			lines = append(lines, fmt.Sprintf("%s cites %s, which isn't in %s", file, number, faultList))
		}
	}
	for id, at := range functions {
		for _, f := range at {
			for _, number := range f.faults {
				if row, ok := rows[number]; ok && !strings.Contains(row, "`"+id+"`") {
					lines = append(lines, fmt.Sprintf("%s: %s names %s, whose row in %s doesn't name it", f.file, f.name, number, faultList))
				}
			}
		}
	}
	slices.Sort(lines)
	return lines, nil
}

// testFunctions returns the functions of the test files below a folder by package and name ("finalize.TestX"; a package may
// have several of one name, for different systems), and the numbers that the files cite, each with one of them.
func testFunctions(root string) (functions map[string][]testFunction, cited map[string]string, err error) {
	functions, cited = map[string][]testFunction{}, map[string]string{}
	err = fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != "." && (entry.Name() == "testdata" || entry.Name() == "tools" || strings.HasPrefix(entry.Name(), ".")):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		for _, number := range faultNumber.FindAllString(string(text), -1) {
			cited[number] = name
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return errors.Join(fmt.Errorf("read %s", name), err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			test := testFunction{file: name, name: f.Name.Name}
			for _, number := range faultNumber.FindAllString(f.Doc.Text(), -1) {
				if number[0] == 'F' && strings.HasPrefix(test.name, "Test") {
					test.faults = append(test.faults, number)
				}
			}
			id := path.Dir(name) + "." + test.name
			functions[id] = append(functions[id], test)
		}
		return nil
	})
	return functions, cited, err
}
