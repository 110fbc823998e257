package main

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// maxShort is how many lines go doc -short may print for a package: what a newcomer takes in at a glance.
const maxShort = 40

// brokenPublic checks what users of the tagged modules see, and returns a line for each exported name that mentions an internal
// type or has no doc comment, and for each package whose list of names is too long.
func brokenPublic(ctx context.Context, tagged []workspace.Module) (lines []string, err error) {
	for _, m := range tagged {
		loaded, err := packages.Load(&packages.Config{
			Context: ctx, Dir: m.Dir,
			Mode: packages.NeedName | packages.NeedTypes | packages.NeedSyntax | packages.NeedTypesInfo | packages.NeedImports | packages.NeedDeps,
		}, "./...")
		if err != nil {
			return nil, err
		}
		for _, p := range loaded {
			for _, e := range p.Errors {
				err = errors.Join(err, e)
			}
			if p.Name == "main" || internal(p.PkgPath) {
				continue
			}
			for _, found := range [][]string{mentions(p.Types), undocumented(p.Types.Name(), p.Syntax)} {
				for _, f := range found {
					lines = append(lines, p.PkgPath+": "+f)
				}
			}
			short := exec.CommandContext(ctx, "go", "doc", "-short", p.PkgPath)
			short.Dir = m.Dir
			out, err := workspace.Output(short)
			if err != nil {
				return nil, err
			}
			if count := strings.Count(out, "\n") + 1; count > maxShort {
				lines = append(lines, fmt.Sprintf("%s: go doc -short prints %d lines, more than %d", p.PkgPath, count, maxShort))
			}
		}
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func internal(path string) bool { return strings.Contains("/"+path+"/", "/internal/") }

// mentions returns a line for each exported name of a package whose declaration mentions an internal type.
func mentions(p *types.Package) (lines []string) {
	for _, name := range p.Scope().Names() {
		object := p.Scope().Lookup(name)
		if !object.Exported() {
			continue
		}
		report := func(name string, t types.Type) {
			for _, path := range internals(t, nil) {
				lines = append(lines, fmt.Sprintf("%s mentions %s", name, path))
			}
		}
		declared, ok := object.(*types.TypeName)
		if !ok {
			report(name, object.Type())
			continue
		}
		if declared.IsAlias() {
			report(name, types.Unalias(declared.Type()))
			continue
		}
		t := declared.Type().(*types.Named)
		report(name, t.Underlying())
		for i := range t.TypeParams().Len() {
			report(name, t.TypeParams().At(i).Constraint())
		}
		// All that it has, also from what it embeds: a type without an exported name hands its methods on.
		for method := range types.NewMethodSet(types.NewPointer(t)).Methods() {
			if method.Obj().Exported() {
				report(name+"."+method.Obj().Name(), method.Type())
			}
		}
	}
	return lines
}

// internals returns the internal types that a user needs to write a type down: in parameters, results, elements and exported
// fields, but not inside of types that have names of their own.
func internals(t types.Type, paths []string) []string {
	switch t := t.(type) {
	case *types.Alias:
		return internals(types.Unalias(t), paths)
	case *types.Named:
		if p := t.Obj().Pkg(); p != nil && internal(p.Path()) {
			paths = append(paths, p.Path()+"."+t.Obj().Name())
		}
		for argument := range t.TypeArgs().Types() {
			paths = internals(argument, paths)
		}
	case *types.Pointer:
		return internals(t.Elem(), paths)
	case *types.Slice:
		return internals(t.Elem(), paths)
	case *types.Array:
		return internals(t.Elem(), paths)
	case *types.Chan:
		return internals(t.Elem(), paths)
	case *types.Map:
		return internals(t.Elem(), internals(t.Key(), paths))
	case *types.Tuple:
		for v := range t.Variables() {
			paths = internals(v.Type(), paths)
		}
	case *types.Signature:
		for p := range t.TypeParams().TypeParams() {
			paths = internals(p.Constraint(), paths)
		}
		return internals(t.Results(), internals(t.Params(), paths))
	case *types.Struct:
		for field := range t.Fields() {
			if field.Exported() {
				paths = internals(field.Type(), paths)
			}
		}
	case *types.Interface:
		for method := range t.ExplicitMethods() {
			if method.Exported() {
				paths = internals(method.Type(), paths)
			}
		}
		for embedded := range t.EmbeddedTypes() {
			paths = internals(embedded, paths)
		}
	case *types.Union:
		for term := range t.Terms() {
			paths = internals(term.Type(), paths)
		}
	}
	return paths
}

// standard are methods whose names say all: they make a type what the standard library asks for.
var standard = []string{"Error", "Unwrap", "String", "MarshalText", "UnmarshalText", "MarshalJSON", "UnmarshalJSON", "LogValue"}

// undocumented returns a line for the package, and for each of its exported functions, types, methods, constants and
// variables, without a doc comment. A comment at a line's end is one, and so is one above a group of constants or variables.
func undocumented(pkg string, files []*ast.File) (lines []string) {
	report := func(name string, comments ...*ast.CommentGroup) {
		if ast.IsExported(name[strings.LastIndex(name, ".")+1:]) && !slices.ContainsFunc(comments, func(c *ast.CommentGroup) bool { return c != nil }) {
			lines = append(lines, name+" has no doc comment")
		}
	}
	if !slices.ContainsFunc(files, func(f *ast.File) bool { return f.Doc != nil }) {
		lines = append(lines, "package "+pkg+" has no doc comment")
	}
	for _, file := range files {
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil {
					report(decl.Name.Name, decl.Doc)
				} else if receiver := receiver(decl.Recv.List[0].Type); ast.IsExported(receiver) && !slices.Contains(standard, decl.Name.Name) {
					report(receiver+"."+decl.Name.Name, decl.Doc)
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						report(spec.Name.Name, spec.Doc, spec.Comment, ungrouped(decl))
					case *ast.ValueSpec:
						for _, name := range spec.Names {
							report(name.Name, spec.Doc, spec.Comment, decl.Doc)
						}
					}
				}
			}
		}
	}
	return lines
}

// ungrouped is the comment of a declaration that has no parentheses.
func ungrouped(decl *ast.GenDecl) *ast.CommentGroup {
	if decl.Lparen == token.NoPos {
		return decl.Doc
	}
	return nil
}

// receiver is the name of a method's type.
func receiver(t ast.Expr) string {
	switch t := t.(type) {
	case *ast.StarExpr:
		return receiver(t.X)
	case *ast.IndexExpr:
		return receiver(t.X)
	case *ast.IndexListExpr:
		return receiver(t.X)
	case *ast.Ident:
		return t.Name
	}
	return ""
}
