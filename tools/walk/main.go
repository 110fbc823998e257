// Command walk counts how often a reader who follows a call through the code turns to another file. It builds a program with
// the module at -dir, in which every function reports that it was entered, runs it, and prints each call from one file into
// another that was made between the program's walk.Start and walk.Stop, in order, each pair of functions once, and at the end
// how many such calls there were, over how many files. Calls into other modules, and returns, aren't counted.
//
//	bin/walk -dir . tools/walk/testdata/settle.go.txt
//
// The programs take the database's URL from ENDSTATE_TEST_POSTGRES_URL. They are to finalize or publish once before
// walk.Start, so that what happens only the first time doesn't count.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// recorder is the source of the package that entered functions report to.
//
//go:embed testdata/recorder.go.txt
var recorder []byte

func main() {
	dir := flag.String("dir", ".", "the root module's folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := walk(ctx, *dir, flag.Arg(0))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "walk:", err)
		os.Exit(1)
	}
}

func walk(ctx context.Context, dir, program string) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	source, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "endstate-walk")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	overlay := map[string]string{}
	replace := func(name string, text []byte) error {
		at := filepath.Join(temp, strconv.Itoa(len(overlay))+".go")
		overlay[filepath.Join(dir, name)] = at
		return os.WriteFile(at, text, 0o644)
	}
	err = fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			_, nested := os.Stat(filepath.Join(dir, name, "go.mod"))
			if name != "." && (nested == nil || slices.Contains([]string{".git", "testdata", "examples"}, entry.Name())) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if text, err = reporting(name, text); err != nil {
			return err
		}
		return replace(name, text)
	})
	if err != nil {
		return err
	}
	if err := errors.Join(replace("internal/walk/walk.go", recorder), replace("internal/walk/program/main.go", source)); err != nil {
		return err
	}
	data, err := json.Marshal(struct{ Replace map[string]string }{overlay})
	if err != nil {
		return err
	}
	config := filepath.Join(temp, "overlay.json")
	if err := os.WriteFile(config, data, 0o644); err != nil {
		return err
	}
	run := exec.CommandContext(ctx, "go", "run", "-buildvcs=false", "-overlay", config, "./internal/walk/program")
	run.Dir, run.Env = dir, append(os.Environ(), "GOWORK=off", "ENDSTATE_WALK_DIR="+dir)
	run.Stdout, run.Stderr = os.Stdout, os.Stderr
	return run.Run()
}

// reporting makes each function of a file report that it was entered, without moving a line.
func reporting(name string, text []byte) ([]byte, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	at := 0
	insert := func(pos token.Pos, what string) {
		offset := files.Position(pos).Offset
		out.Write(text[at:offset])
		out.WriteString(what)
		at = offset
	}
	insert(file.Name.End(), `; import endstatewalk "github.com/endstate-go/endstate/internal/walk"`)
	for _, decl := range file.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Body != nil {
			insert(f.Body.Lbrace+1, " endstatewalk.Enter(); ")
		}
	}
	insert(file.FileEnd, "\nvar _ = endstatewalk.Enter\n")
	out.Write(text[at:])
	return out.Bytes(), nil
}
