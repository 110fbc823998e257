package main

import (
	"bytes"
	"slices"
	"strings"

	"github.com/go-logfmt/logfmt"
	"github.com/tidwall/gjson"
)

// unwrapped joins the parts of a line.
func (s *logScan) unwrapped(w wrapped) {
	before, waits := s.partial[w.stream]
	if !waits && !w.partial {
		s.assemble(w)
		return
	}
	if len(before)+len(w.text) <= maxLine {
		before = append(before, w.text...)
	} else {
		before = append(before, make([]byte, maxLine+1-min(len(before), maxLine))...)[:maxLine+1] // too long, whatever follows
	}
	if w.partial && (waits || len(s.partial) < maxStreams) {
		s.partial[w.stream] = before
		return
	}
	delete(s.partial, w.stream)
	if w.text = before; len(before) > maxLine {
		s.reject(before, tooLong)
		return
	}
	s.assemble(w)
}

// maxStreams is how many streams may have a line under way.
const maxStreams = 4

// assemble puts together an object that was printed over several lines: it ends with a brace below the first.
func (s *logScan) assemble(w wrapped) {
	text := bytes.Trim(w.text, " \t\r\x1e") // JSON text sequences have the last one in front
	if s.object != nil && (bytes.HasPrefix(w.text, []byte(`{"`)) || len(s.object)+len(text) > maxLine) {
		s.reject(s.object, "a JSON object without an end")
		s.object = nil
	}
	switch {
	case s.object != nil:
		s.object = append(append(s.object, text...), '\n')
		if !bytes.HasPrefix(w.text, s.closing) {
			return
		}
		w.text, s.object = bytes.TrimRight(s.object, ",\n"), nil
		if journal := unwrap(w.text); journal.fields != nil { // journalctl -o json-pretty
			w = journal
		}
		s.record(w)
		return
	case s.cfg.pattern != nil:
	case string(text) == "{":
		s.object, s.closing = append(make([]byte, 0, 1024), text...), bytes.Replace(w.text, text, []byte("}"), 1)
		return
	case string(text) == "[" || string(text) == "]" || string(text) == ",":
		return // around objects and between them
	}
	if w.text = text; len(text) > 0 || len(w.fields) > 0 {
		s.record(w)
	}
}

// record takes in what is one message.
func (s *logScan) record(w wrapped) {
	if s.cfg.pattern != nil {
		s.textLine(w.text)
		return
	}
	object := w.text
	if len(object) == 0 || object[0] != '{' {
		// Something may stand in front of it: a time, a host, a container's name.
		object = nil
		if i := bytes.Index(w.text, []byte(`{"`)); i > 0 {
			object = w.text[i:]
		}
	}
	switch {
	case object != nil && gjson.ValidBytes(object):
		s.jsonRecord(object, w, true)
	case s.isLogfmt(w.text):
		s.logfmtRecord(w)
	case len(w.fields) > 0:
		s.message(s.find(s.names, func(name string) string { return w.fields[strings.ToLower(name)] }), w, w.text)
	default:
		s.reject(w.text, "neither a JSON object nor logfmt (for other text there is --pattern)")
	}
}

// about reports whether a line may be one that counts: most are about something else, which is seen without taking them apart.
func (s *logScan) about(line []byte) bool {
	return s.samples < maxSamples || s.cfg.message.maybe(line) || s.cfg.start.maybe(line)
}

// jsonRecord takes in an object. One that has another as the text of its message stands for that.
func (s *logScan) jsonRecord(object []byte, w wrapped, outer bool) {
	if !s.about(object) {
		return
	}
	found := s.find(s.paths, func(path string) string { return gjson.GetBytes(object, path).String() })
	if inner := strings.TrimSpace(found[messageField]); outer && strings.HasPrefix(inner, "{") && gjson.Valid(inner) {
		if w.at.IsZero() {
			w.at = logTime(found[timeField])
		}
		s.jsonRecord([]byte(inner), w, false)
		return
	}
	s.message(found, w, object)
}

// isLogfmt reports whether a line has a message in the form that slog's text handler, logrus and others write.
func (s *logScan) isLogfmt(line []byte) bool {
	return slices.ContainsFunc(s.names[messageField], func(name string) bool {
		i := bytes.Index(line, []byte(name+"="))
		return i == 0 || i > 0 && line[i-1] == ' '
	})
}

func (s *logScan) logfmtRecord(w wrapped) {
	if !s.about(w.text) {
		return
	}
	values := map[string]string{}
	decoder := logfmt.NewDecoderSize(bytes.NewReader(w.text), maxLine+1)
	decoder.ScanRecord()
	for decoder.ScanKeyval() {
		values[string(decoder.Key())] = string(decoder.Value())
	}
	if err := decoder.Err(); err != nil {
		s.reject(w.text, "not logfmt: "+err.Error())
		return
	}
	s.message(s.find(s.names, func(name string) string { return values[name] }), w, w.text)
}

// find returns the fields of a message, each by the first of its names that has a text.
func (s *logScan) find(names [numFields][]string, get func(name string) string) (found [numFields]string) {
	for field, names := range names {
		for _, name := range names {
			if found[field] = get(name); found[field] != "" {
				break
			}
		}
	}
	return found
}

// message counts a message with its fields, if it is one that counts.
func (s *logScan) message(found [numFields]string, w wrapped, line []byte) {
	message := found[messageField]
	verdict := s.verdict(message)
	if verdict == (verdictOf{}) {
		if s.samples++; message != "" && len(s.others) < maxBad {
			if other := printable(message); !slices.Contains(s.others, other) {
				s.others = append(s.others, other)
			}
		}
		return
	}
	if found[keyField] == "" {
		s.reject(line, "no field for the aggregate's id; name it with --key")
		return
	}
	at := logTime(found[timeField])
	if at.IsZero() {
		at = w.at
	}
	s.count(occurrence{logKey{found[aggregateField], found[keyField]}, found[triggerField], at}, verdict)
}

// maxSamples is how many messages that don't count are looked at to say in the end what there was instead.
const maxSamples = 1000
