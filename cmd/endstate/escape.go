package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
)

// steers reports whether a character does something to a terminal, or to how the text around it looks, rather than being seen:
// control characters, marks that turn the direction of writing, and those without width.
func steers(r rune) bool { return !unicode.IsGraphic(r) }

// graphic is a text with escapes for what would break a line or steer the terminal.
func graphic(text string) string {
	quoted := strconv.QuoteToGraphic(text)
	return unquoter.Replace(quoted[1 : len(quoted)-1])
}

var unquoter = strings.NewReplacer(`\\`, `\`, `\"`, `"`)

// escapedText has the text that a command prints shown as it is, line by line: whatever it comes from.
type escapedText struct{ out io.Writer }

func (e escapedText) Write(p []byte) (int, error) {
	lines := strings.Split(string(p), "\n")
	for i, line := range lines {
		lines[i] = graphic(line)
	}
	if _, err := io.WriteString(e.out, strings.Join(lines, "\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}

// escapedJSON does the same for JSON, without changing its meaning: such characters can only stand in its strings.
type escapedJSON struct{ out io.Writer }

func (e escapedJSON) Write(p []byte) (int, error) {
	var b strings.Builder
	for _, r := range string(p) {
		if r == '\n' || !steers(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	if _, err := io.WriteString(e.out, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
