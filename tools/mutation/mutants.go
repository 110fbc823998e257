package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// mutant is one change of the source.
type mutant struct {
	Package, File string
	Line          int
	Covered       int    // the line that a test covers if it runs this; 0 outside of functions, which all tests do
	What          string // "< to <="
	From, To      int    // offsets in the file
	Text          string // what stands there instead
}

func (m mutant) String() string { return fmt.Sprintf("%s:%d %s", m.File, m.Line, m.What) }

// swaps are the operators that take one another's place.
var swaps = map[token.Token][]token.Token{
	token.LSS: {token.LEQ, token.GEQ}, token.LEQ: {token.LSS, token.GTR}, token.GTR: {token.GEQ, token.LEQ}, token.GEQ: {token.GTR, token.LSS},
	token.EQL: {token.NEQ}, token.NEQ: {token.EQL}, token.LAND: {token.LOR}, token.LOR: {token.LAND}, token.ADD: {token.SUB}, token.SUB: {token.ADD},
	token.MUL: {token.QUO}, token.QUO: {token.MUL},
}

// sqlChanges are what is done to SQL: each match of the first is replaced by the second.
var sqlChanges = []struct {
	find *regexp.Regexp
	put  string
	what string
}{
	{regexp.MustCompile(`\bAND\b`), "OR", "SQL: AND to OR"},
	{regexp.MustCompile(`\bOR\b`), "AND", "SQL: OR to AND"},
	{regexp.MustCompile(` AND [^()'"%{}]*?[^()'"%{} ]( AND |\)|$)`), "$1", "SQL: a condition removed"},
	{regexp.MustCompile(`\bNOT EXISTS\b`), "EXISTS", "SQL: NOT EXISTS to EXISTS"},
	{regexp.MustCompile(`\bIS NOT NULL\b`), "IS NULL", "SQL: IS NOT NULL to IS NULL"},
	{regexp.MustCompile(`\bIS NULL\b`), "IS NOT NULL", "SQL: IS NULL to IS NOT NULL"},
	{regexp.MustCompile(` FOR (NO KEY )?UPDATE\b`), "", "SQL: the row's lock removed"},
	{regexp.MustCompile(` SKIP LOCKED\b`), "", "SQL: SKIP LOCKED removed"},
	{regexp.MustCompile(` <> `), " = ", "SQL: <> to ="},
	{regexp.MustCompile(` < `), " <= ", "SQL: < to <="},
	{regexp.MustCompile(` <= `), " < ", "SQL: <= to <"},
	{regexp.MustCompile(` > `), " >= ", "SQL: > to >="},
	{regexp.MustCompile(` >= `), " > ", "SQL: >= to >"},
	{regexp.MustCompile(` DESC\b`), "", "SQL: DESC removed"},
	{regexp.MustCompile(` DO NOTHING\b`), " DO UPDATE SET seq = excluded.seq", "SQL: DO NOTHING to DO UPDATE"},
	{regexp.MustCompile(`\bUNION ALL\b`), "UNION", "SQL: UNION ALL to UNION"},
}

var isSQL = regexp.MustCompile(`\b(SELECT|UPDATE|INSERT|DELETE|WHERE|CASE WHEN|FOR UPDATE|ON CONFLICT|RETURNING|AND)\b`)

// mutants returns every change that the tool knows of a package's files.
func mutants(dir string) (all []mutant, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || filepath.Base(file) == "doc.go" {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, file, source, 0)
		if err != nil {
			return nil, err
		}
		covered := 0
		add := func(from, to token.Pos, text, what string) {
			at := set.Position(from)
			all = append(all, mutant{dir, file, at.Line, covered, what, at.Offset, set.Position(to).Offset, text})
		}
		between := func(n ast.Node) string {
			return string(source[set.Position(n.Pos()).Offset:set.Position(n.End()).Offset])
		}
		ast.PreorderStack(tree, nil, func(n ast.Node, outer []ast.Node) bool {
			covered = 0
			if run := whatRuns(n, outer); run.IsValid() {
				covered = set.Position(run).Line
			}
			switch n := n.(type) {
			case *ast.ImportSpec:
				return false
			case *ast.BinaryExpr:
				for _, other := range swaps[n.Op] {
					if n.Op == token.ADD && (isString(n.X) || isString(n.Y)) {
						continue
					}
					add(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), other.String(), n.Op.String()+" to "+other.String())
				}
			case *ast.IfStmt:
				add(n.Cond.Pos(), n.Cond.End(), "!("+between(n.Cond)+")", "a condition negated")
				if len(n.Body.List) == 1 && n.Else == nil {
					if _, leaves := n.Body.List[0].(*ast.ReturnStmt); leaves {
						add(n.Cond.Pos(), n.Cond.End(), "false && ("+between(n.Cond)+")", "an early return removed")
					}
				}
			case *ast.ExprStmt:
				add(n.Pos(), n.End(), "", "a statement removed: "+short(between(n)))
			case *ast.AssignStmt:
				if n.Tok == token.ASSIGN && len(n.Lhs) == 1 && between(n.Lhs[0]) != "_" {
					add(n.Pos(), n.End(), "_ = "+between(n.Rhs[0]), "an assignment removed: "+short(between(n)))
				}
			case *ast.DeferStmt:
				add(n.Pos(), n.End(), "", "a deferred call removed: "+short(between(n)))
			case *ast.IncDecStmt:
				add(n.Pos(), n.End(), "", "a statement removed: "+between(n))
			case *ast.Ident:
				if swap := map[string]string{"true": "false", "false": "true"}[n.Name]; swap != "" {
					add(n.Pos(), n.End(), swap, n.Name+" to "+swap)
				}
			case *ast.BasicLit:
				if number, err := strconv.Atoi(n.Value); err == nil && n.Kind == token.INT {
					add(n.Pos(), n.End(), strconv.Itoa(number+1), fmt.Sprintf("%d to %d", number, number+1))
				}
				if n.Kind == token.STRING && isSQL.MatchString(n.Value) {
					for _, c := range sqlChanges {
						for _, at := range c.find.FindAllStringSubmatchIndex(n.Value, -1) {
							text := string(c.find.ExpandString(nil, c.put, n.Value, at))
							add(n.Pos()+token.Pos(at[0]), n.Pos()+token.Pos(at[1]), text, c.what+" in "+short(n.Value[max(0, at[0]-15):min(len(n.Value), at[1]+15)]))
						}
					}
				}
			}
			return true
		})
	}
	return all, nil
}

// whatRuns is what a test runs if it runs n: n itself, or the switch in one of whose cases n is looked at.
func whatRuns(n ast.Node, outer []ast.Node) token.Pos {
	for i, o := range slices.Backward(outer) {
		switch o := o.(type) {
		case *ast.CaseClause:
			if n.Pos() < o.Colon {
				return outer[i-2].Pos() // a switch, its body, a case
			}
		case *ast.FuncDecl, *ast.FuncLit:
			return n.Pos()
		}
	}
	return token.NoPos
}

func isString(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Kind == token.STRING
	case *ast.BinaryExpr:
		return isString(e.X) || isString(e.Y)
	}
	return false
}

// short is text on one line, cut off.
func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 70 {
		text = text[:70] + "…"
	}
	return text
}
