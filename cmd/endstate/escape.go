package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// steers reports whether a character does something to a terminal, or to how the text around it looks, rather than being seen:
// control characters, marks that turn the direction of writing, and those without width.
func steers(r rune) bool { return !unicode.IsGraphic(r) }

// graphic is a text with escapes for what would break a line or steer the terminal.
func graphic(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case !steers(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
		i += size
	}
	return b.String()
}

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
		switch {
		case r == '\n' || !steers(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	if _, err := io.WriteString(e.out, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
