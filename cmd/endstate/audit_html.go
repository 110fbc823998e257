package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"

	"github.com/endstate-go/endstate/outbox/audit"
)

//go:embed audit.html
var auditHTML string

// auditPage writes an audit's report as a page that needs nothing from elsewhere.
func auditPage(w io.Writer, cfg audit.Config, r *audit.Report) error {
	page, err := template.New("audit").Funcs(template.FuncMap{
		"pattern": func(p audit.Pattern) string { return patternNames[p] },
		"meaning": func(p audit.Pattern) string { return patternMeaning(p, r.Window) },
		"gap": func(millis *float64) string {
			if millis == nil {
				return "–"
			}
			return fmt.Sprint(gapCell(millis))
		},
		"number": func(v any) string {
			if f, ok := v.(float64); ok {
				return fmt.Sprintf("%.2f", f)
			}
			return fmt.Sprint(v)
		},
		"text": graphic,
		"span": span,
		"bars": bars,
	}).Parse(auditHTML)
	if err != nil {
		return err
	}
	return page.Execute(w, struct {
		Config  audit.Config
		Report  *audit.Report
		Figures []figure
	}{cfg, r, auditFigures(r)})
}

// The size of a timeline's drawing, without its labels.
const (
	drawingWidth  = 720
	drawingHeight = 80
)

// bar is one bucket of a timeline: its place in the drawing, and what it stands for.
type bar struct {
	X, Width             float64
	Y, Height            float64 // of all events
	SeenY, SeenHeight    float64 // of those that were published
	Events, SeenByOthers int64
}

func bars(timeline [audit.Buckets]audit.Bucket) []bar {
	var highest int64 = 1
	for _, b := range timeline {
		highest = max(highest, b.Events)
	}
	const width = float64(drawingWidth) / audit.Buckets
	list := make([]bar, 0, len(timeline))
	for i, b := range timeline {
		if b.Events == 0 {
			continue
		}
		height := float64(drawingHeight) * float64(b.Events) / float64(highest)
		seen := float64(drawingHeight) * float64(b.Published) / float64(highest)
		list = append(list, bar{X: float64(i) * width, Width: width - 1.5, Y: drawingHeight - height, Height: height,
			SeenY: drawingHeight - seen, SeenHeight: seen, Events: b.Events, SeenByOthers: b.Published})
	}
	return list
}
