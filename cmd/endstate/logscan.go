package main

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// logConfig says what to look for in logs.
type logConfig struct {
	message, start                       matcher
	pattern                              *regexp.Regexp // of text lines; nil for JSON
	key, messageKey, triggerKey, timeKey string         // fields; empty: found by themselves
	top                                  int
	part, parts                          uint64 // of the aggregates only these are looked at; parts 0: all
	named                                bool   // the message was given by the user
}

// The fields that are looked for.
const (
	messageField = iota
	keyField
	triggerField
	timeField
	aggregateField
	numFields
)

// fieldNames are the names that loggers give the fields, most likely first.
var fieldNames = [numFields][]string{
	messageField:   {"msg", "message", "event"},
	keyField:       {"key", "aggregate_id", "batch_id"},
	triggerField:   {"trigger"},
	timeField:      {"time", "ts", "timestamp", "@timestamp"},
	aggregateField: {"aggregate"},
}

// logKey tells aggregates apart. Most logs have no type.
type logKey struct{ kind, id string }

// occurrence is one line that counts.
type occurrence struct {
	logKey
	trigger string
	at      time.Time
}

// maxTriggers is how many of an aggregate's triggers are kept.
const maxTriggers = 20

// badLine is a line that couldn't be read.
type badLine struct {
	File string `json:"file"`
	Line int64  `json:"line"`
	Why  string `json:"why"`
	Text string `json:"text"`
}

// maxBad is how many bad lines are kept.
const maxBad = 5

// logScan reads logs line by line. It keeps what it reports of each distinct aggregate, and nothing else that grows.
type logScan struct {
	cfg   logConfig
	names [numFields][]string
	paths [numFields][]string // to them, in JSON

	logReport // what was counted so far

	file       string
	inFile     int64 // lines
	aggregates map[logKey]*loggedAggregate
	interned   map[string]string // triggers
	verdicts   map[string]verdictOf

	partial    map[string][]byte // lines that go on, by their stream
	object     []byte            // that is printed over several lines; nil for none
	closing    []byte            // how the line with its end begins
	others     []string          // messages that don't count
	samples    int
	matched    bool // a message counted as a finalization
	kept, room int  // bytes for aggregates
}

func newLogScan(cfg logConfig) *logScan {
	s := &logScan{cfg: cfg, names: fieldNames, aggregates: map[logKey]*loggedAggregate{}, interned: map[string]string{}, verdicts: map[string]verdictOf{},
		partial: map[string][]byte{}, room: maxRoom, logReport: logReport{Worst: []loggedAggregate{}, Bad: []badLine{}}}
	for field, name := range map[int]string{messageField: cfg.messageKey, keyField: cfg.key, triggerField: cfg.triggerKey, timeField: cfg.timeKey} {
		if name != "" {
			s.names[field] = []string{name}
		}
	}
	if cfg.key != "" && cfg.key != "key" {
		s.names[aggregateField] = nil // it is our own logger's
	}
	for field, names := range s.names {
		for _, name := range names {
			s.paths[field] = append(s.paths[field], gjson.Escape(name))
			if nested := strings.Split(name, "."); len(nested) > 1 {
				for i, part := range nested {
					nested[i] = gjson.Escape(part)
				}
				s.paths[field] = append(s.paths[field], strings.Join(nested, "."))
			}
		}
	}
	return s
}

func (s *logScan) begin(file string) {
	s.end()
	s.file, s.inFile = file, 0
}

// end takes what waited for the rest of it as it is.
func (s *logScan) end() {
	for stream, text := range s.partial {
		delete(s.partial, stream)
		s.assemble(wrapped{text: text})
	}
	if s.object != nil {
		s.reject(s.object, "a JSON object without an end")
		s.object = nil
	}
}

func (s *logScan) reject(line []byte, why string) {
	s.BadLines++
	if len(s.Bad) < maxBad {
		s.Bad = append(s.Bad, badLine{s.file, s.inFile, why, printable(string(line[:min(len(line), maxCell+1)]))})
	}
}

const tooLong = "longer than 1 MiB"

// line takes in one line.
func (s *logScan) line(line []byte) { s.unwrapped(unwrap(line)) }

// verdictOf is what a message is.
type verdictOf struct{ counts, starts bool }

// maxVerdicts is how many messages are kept with their verdicts: loggers with fields write few different ones.
const maxVerdicts = 1000

func (s *logScan) verdict(message string) verdictOf {
	v, known := s.verdicts[message]
	if !known {
		v = verdictOf{s.cfg.message.in(message), s.cfg.start.in(message)}
		if len(s.verdicts) < maxVerdicts && len(message) <= maxKept {
			s.verdicts[message] = v
		}
	}
	return v
}

// textLine takes in a line that is text.
func (s *logScan) textLine(line []byte) {
	if !s.cfg.message.maybe(line) && !s.cfg.start.maybe(line) {
		return
	}
	text := string(line)
	verdict := verdictOf{s.cfg.message.in(text), s.cfg.start.in(text)}
	if verdict == (verdictOf{}) {
		return
	}
	groups := s.cfg.pattern.FindStringSubmatch(text)
	group := func(name string) string {
		if i := s.cfg.pattern.SubexpIndex(name); i > 0 && groups != nil {
			return groups[i]
		}
		return ""
	}
	if group("key") == "" {
		s.reject(line, "--pattern finds no key in it")
		return
	}
	s.count(occurrence{logKey{id: group("key")}, group("trigger"), logTime(group("time"))}, verdict)
}

func (s *logScan) count(o occurrence, verdict verdictOf) {
	s.matched = s.matched || verdict.counts
	o.kind, o.id, o.trigger = shortened(o.kind), shortened(o.id), shortened(o.trigger)
	if s.cfg.parts > 0 && partOf(o.logKey, s.cfg.parts) != s.cfg.part {
		return
	}
	a := s.aggregates[o.logKey]
	if a == nil {
		if s.kept += aggregateSize + len(o.kind) + len(o.id); s.kept > s.room {
			s.kept -= aggregateSize + len(o.kind) + len(o.id)
			s.Untracked++
			return
		}
		a = &loggedAggregate{ID: o.id, Type: o.kind, Triggers: []string{}}
		s.aggregates[o.logKey] = a
	}
	if verdict.starts {
		a.Starts++
		s.Starts++
	}
	if !verdict.counts {
		return
	}
	a.Finalizations++
	s.Finalizations++
	switch at := o.at; {
	case at.IsZero():
	case a.First == nil:
		last := at
		a.First, a.Last = &at, &last
	case at.Before(*a.First):
		*a.First = at
	case at.After(*a.Last):
		*a.Last = at
	}
	if o.trigger != "" && len(a.Triggers) < maxTriggers {
		trigger, known := s.interned[o.trigger]
		if trigger = cmp.Or(trigger, "…"); !known && len(s.interned) < maxVerdicts {
			trigger = strings.Clone(o.trigger)
			s.interned[trigger] = trigger
		}
		a.Triggers = append(a.Triggers, trigger)
	}
}

// The bounds of what is kept, whatever logs say.
const (
	maxKept       = 256       // bytes of an id, a type, a trigger or a message
	aggregateSize = 600       // bytes that an aggregate takes beside its id and type, with all the triggers that are kept
	maxRoom       = 256 << 20 // bytes for all aggregates
)

// shortened is a text that is kept: of a long one its beginning, and a hash by which it differs from others.
func shortened(text string) string {
	if len(text) <= maxKept {
		return strings.Clone(text) // not the whole line with it
	}
	sum := sha256.Sum256([]byte(text))
	return strings.ToValidUTF8(text[:maxKept-40], "") + fmt.Sprintf("…%x", sum[:16])
}

// partOf is which of so many parts an aggregate belongs to, from 1.
func partOf(key logKey, parts uint64) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key.kind + "\x00" + key.id))
	return h.Sum64()%parts + 1
}

// logTime reads a time as loggers write it: text, or a number of seconds, or of parts of one, since 1970.
func logTime(text string) time.Time {
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02T15:04:05", "2006-01-02T15:04:05Z0700"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC()
		}
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(seconds, 0) || math.IsNaN(seconds) {
		return time.Time{}
	}
	for math.Abs(seconds) > 1e11 {
		seconds /= 1000
	}
	return time.UnixMicro(int64(math.Round(seconds * 1e6))).UTC()
}
