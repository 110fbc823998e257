package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// print writes a result: under --json value as one JSON object, else what text writes.
func (a *app) print(value any, text func(w io.Writer)) error {
	a.shown.end()
	out := bufio.NewWriter(a.stdout)
	if a.json {
		encoder := json.NewEncoder(escapedJSON{out})
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(value); err != nil {
			return fmt.Errorf("write JSON: %w", err)
		}
	} else {
		text(escapedText{out})
	}
	if err := out.Flush(); err != nil { // bufio keeps the first error
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// table is text in columns that line up, those of numbers alone to the right.
type table struct {
	rows  [][]string
	texts []bool // which columns have a text in them
}

// newTable begins a table. Without a header it has no line for it, as for pairs of a name and a value.
func newTable(header ...string) *table {
	t := &table{}
	if len(header) > 0 {
		t.rows = [][]string{header}
	}
	return t
}

// row adds a line. A cell is a text, a number, a time, or nil for nothing.
func (t *table) row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		var text bool
		if at, ok := c.(*time.Time); ok && at != nil {
			c = *at
		}
		switch c := c.(type) {
		case nil, *time.Time:
			row[i] = "–"
		case int, int64, time.Duration:
			row[i] = fmt.Sprint(c)
		case float64:
			row[i] = strconv.FormatFloat(c, 'f', 2, 64)
		case time.Time:
			if row[i] = "–"; !c.IsZero() {
				row[i], text = c.UTC().Format(time.RFC3339), true
			}
		default:
			row[i], text = printable(fmt.Sprint(c)), true
		}
		if i == len(t.texts) {
			t.texts = append(t.texts, false)
		}
		t.texts[i] = t.texts[i] || text
	}
	t.rows = append(t.rows, row)
}

func (t *table) write(w io.Writer) {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], uniseg.StringWidth(cell))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			space := strings.Repeat(" ", widths[i]-uniseg.StringWidth(cell))
			if i < len(t.texts) && t.texts[i] {
				line.WriteString(cell + space)
			} else {
				line.WriteString(space + cell)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// maxCell is how many bytes of a text a table shows; --json has all.
const maxCell = 80

// printable is a text from a database as a table shows it.
func printable(text string) string {
	if len(text) > maxCell {
		end := maxCell
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end] + "…"
	}
	return graphic(text)
}
