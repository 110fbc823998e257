package console

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// steers reports whether a character does something to a terminal, or to how the text around it looks, rather than being seen:
// control characters, marks that turn the direction of writing, and those without width.
func steers(r rune) bool { return !unicode.IsGraphic(r) }

// graphic is a text with escapes for what would steer whoever shows it. Lines end where they did if they are kept.
func graphic(text string, lines bool) string {
	var b strings.Builder
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case !steers(r) || lines && (r == '\n' || r == '\t'):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
		i += size
	}
	return b.String()
}

// cut is a text's beginning and, where that isn't all of it, how long it is.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	begin := text[:most]
	for len(begin) > 0 && !utf8.RuneStart(text[len(begin)]) {
		begin = begin[:len(begin)-1]
	}
	return fmt.Sprintf("%s… (%s bytes)", begin, number(len(text)))
}

// The lengths at which texts are cut, in bytes: in a line, and where one stands alone.
const (
	lineLength  = 300
	shownLength = 2000 // within JSON
	longLength  = 64 << 10
)

// line is a text within a page.
func line(v any) string { return graphic(cut(fmt.Sprint(v), lineLength), false) }

// long is a text of several lines.
func long(v any) string { return graphic(cut(fmt.Sprint(v), longLength), true) }

// escapeJSON escapes what steers in JSON, without changing its meaning: such characters can only stand in its strings.
func escapeJSON(text string) string {
	var b strings.Builder
	for _, r := range text {
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
	return b.String()
}

// number has a blank between thousands, as no language has it for anything else.
func number[N int | int64](n N) string {
	text := strconv.FormatInt(int64(n), 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return text
}

// span is a number of seconds for people.
func span(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case d <= 0:
		return "0 s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%d d", int(d.Hours()/24))
	}
}

// when is a time in UTC.
func when(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
