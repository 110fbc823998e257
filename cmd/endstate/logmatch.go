package main

import (
	"bytes"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// matcher is a regular expression with texts of which a line must have one to match it: a search for them is many times
// faster. The zero matcher matches nothing.
type matcher struct {
	re    *regexp.Regexp
	texts [][]byte // empty: any line may match
}

// newMatcher compiles a flag's expression. An empty one matches nothing.
func newMatcher(flag, expression string) (matcher, error) {
	if expression == "" {
		return matcher{}, nil
	}
	re, err := regexp.Compile(expression)
	if err != nil {
		return matcher{}, fmt.Errorf("--%s: %w", flag, err)
	}
	m := matcher{re: re}
	if parsed, err := syntax.Parse(expression, syntax.Perl); err == nil {
		for _, text := range required(parsed.Simplify()) {
			m.texts = append(m.texts, []byte(text))
		}
	}
	return m, nil
}

// maybe reports whether a line can match.
func (m matcher) maybe(line []byte) bool {
	return m.re != nil && (len(m.texts) == 0 || slices.ContainsFunc(m.texts, func(text []byte) bool { return bytes.Contains(line, text) }))
}

func (m matcher) in(message string) bool { return m.re != nil && m.re.MatchString(message) }

// required returns texts of which one is in whatever matches the expression, or nil if it can't tell.
func required(re *syntax.Regexp) []string {
	switch re.Op {
	case syntax.OpLiteral:
		text := string(re.Rune)
		if re.Flags&syntax.FoldCase != 0 || strings.ContainsFunc(text, escapable) {
			return nil
		}
		return []string{text}
	case syntax.OpCapture, syntax.OpPlus:
		return required(re.Sub[0])
	case syntax.OpConcat:
		var best []string
		for _, sub := range re.Sub {
			if texts := required(sub); texts != nil && (best == nil || shortest(texts) > shortest(best)) {
				best = texts
			}
		}
		return best
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			texts := required(sub)
			if texts == nil {
				return nil
			}
			all = append(all, texts...)
		}
		return all
	}
	return nil
}

// escapable are the characters that some logger writes as an escape sequence in JSON.
func escapable(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\/<>&'`, r) }

func shortest(texts []string) int {
	return len(slices.MinFunc(texts, func(a, b string) int { return len(a) - len(b) }))
}
