package main

import (
	"bytes"
	"cmp"
	"math"
	"regexp"
	"slices"
	"time"

	"github.com/tidwall/gjson"
)

// logConfig says what to look for in logs.
type logConfig struct {
	message, start                       matcher
	pattern                              *regexp.Regexp // of text lines; nil for JSON
	key, messageKey, triggerKey, timeKey string         // fields; empty: found by themselves
	top                                  int
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

// aggregateLog is what the logs say of one aggregate. Its size is bounded, whatever they say.
type aggregateLog struct {
	finalizations, starts int64
	first, last           time.Time
	triggers              []string // in the order in which they came
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

// logScan reads logs line by line. It keeps what it tells of each distinct aggregate, and nothing else that grows.
type logScan struct {
	cfg   logConfig
	names [numFields][]string
	// The groups of the pattern; below 0 for none.
	keyGroup, triggerGroup, timeGroup int

	file                  string
	inFile                int64 // lines
	lines, badLines       int64
	finalizations, starts int64
	bad                   []badLine
	aggregates            map[logKey]*aggregateLog
	interned              map[string]string // triggers
	verdicts              map[string]verdictOf
}

func newLogScan(cfg logConfig) *logScan {
	s := &logScan{cfg: cfg, names: fieldNames, aggregates: map[logKey]*aggregateLog{}, interned: map[string]string{}, verdicts: map[string]verdictOf{}}
	for field, name := range map[int]string{messageField: cfg.messageKey, keyField: cfg.key, triggerField: cfg.triggerKey, timeField: cfg.timeKey} {
		if name != "" {
			s.names[field] = []string{name}
		}
	}
	if cfg.key != "" && cfg.key != "key" {
		s.names[aggregateField] = nil // it is our own logger's
	}
	if cfg.pattern != nil {
		s.keyGroup, s.triggerGroup, s.timeGroup = cfg.pattern.SubexpIndex("key"), cfg.pattern.SubexpIndex("trigger"), cfg.pattern.SubexpIndex("time")
	}
	return s
}

func (s *logScan) begin(file string) { s.file, s.inFile = file, 0 }

func (s *logScan) reject(line []byte, why string) {
	s.badLines++
	if len(s.bad) < maxBad {
		s.bad = append(s.bad, badLine{s.file, s.inFile, why, printable(string(line[:min(len(line), maxCell+1)]))})
	}
}

func (s *logScan) tooLong(line []byte) {
	s.lines++
	s.inFile++
	s.reject(line, "longer than 1 MiB")
}

// line takes in one line.
func (s *logScan) line(line []byte) {
	s.lines++
	s.inFile++
	if len(line) == 0 {
		return
	}
	if s.cfg.pattern != nil {
		s.textLine(line)
		return
	}
	if line = bytes.TrimLeft(line, " \t"); !gjson.ValidBytes(line) || line[0] != '{' {
		s.reject(line, "not a JSON object")
		return
	}
	// Most lines are about something else, which is seen without taking them apart.
	if !s.cfg.message.maybe(line) && !s.cfg.start.maybe(line) {
		return
	}
	fields := s.fields(line)
	verdict := s.verdict(fields[messageField].String())
	if verdict == (verdictOf{}) {
		return
	}
	id := fields[keyField].String()
	if id == "" {
		s.reject(line, "no field for the aggregate's id; name it with --key")
		return
	}
	s.count(occurrence{logKey{fields[aggregateField].String(), id}, fields[triggerField].String(), logTime(fields[timeField])}, verdict.counts, verdict.starts)
}

// verdictOf is what a message is.
type verdictOf struct{ counts, starts bool }

// maxVerdicts is how many messages are kept with their verdicts: loggers with fields write few different ones.
const maxVerdicts = 1000

func (s *logScan) verdict(message string) verdictOf {
	v, known := s.verdicts[message]
	if !known {
		v = verdictOf{s.cfg.message.in(message), s.cfg.start.in(message)}
		if len(s.verdicts) < maxVerdicts {
			s.verdicts[message] = v
		}
	}
	return v
}

// textLine takes in a line that is text.
func (s *logScan) textLine(line []byte) {
	counts := s.cfg.message.maybe(line) && s.cfg.message.inBytes(line)
	starts := s.cfg.start.maybe(line) && s.cfg.start.inBytes(line)
	if !counts && !starts {
		return
	}
	groups := s.cfg.pattern.FindSubmatch(line)
	if groups == nil || len(groups[s.keyGroup]) == 0 {
		s.reject(line, "--pattern finds no key in it")
		return
	}
	o := occurrence{logKey: logKey{id: string(groups[s.keyGroup])}}
	if s.triggerGroup > 0 {
		o.trigger = string(groups[s.triggerGroup])
	}
	if s.timeGroup > 0 {
		o.at = parseLogTime(string(groups[s.timeGroup]))
	}
	s.count(o, counts, starts)
}

func (s *logScan) count(o occurrence, counts, starts bool) {
	a := s.aggregates[o.logKey]
	if a == nil {
		a = &aggregateLog{}
		s.aggregates[o.logKey] = a
	}
	if starts {
		a.starts++
		s.starts++
	}
	if !counts {
		return
	}
	a.finalizations++
	s.finalizations++
	if !o.at.IsZero() {
		if a.first.IsZero() || o.at.Before(a.first) {
			a.first = o.at
		}
		if o.at.After(a.last) {
			a.last = o.at
		}
	}
	if o.trigger != "" && len(a.triggers) < maxTriggers {
		trigger, known := s.interned[o.trigger]
		if !known {
			trigger = o.trigger
			s.interned[trigger] = trigger
		}
		a.triggers = append(a.triggers, trigger)
	}
}

// fields finds the fields of a line. Of two names for one, the earlier in fieldNames counts.
func (s *logScan) fields(line []byte) (found [numFields]gjson.Result) {
	object := gjson.ParseBytes(line)
	var rank [numFields]int
	object.ForEach(func(key, value gjson.Result) bool {
		for field, names := range s.names {
			for i, name := range names {
				if key.Str == name && (rank[field] == 0 || i+1 < rank[field]) {
					found[field], rank[field] = value, i+1
				}
			}
		}
		return true
	})
	for field, names := range s.names {
		if rank[field] == 0 && len(names) == 1 {
			found[field] = nestedField(object, names[0])
		}
	}
	return found
}

// logTime reads a time as loggers write it: text, or a number of seconds, or of parts of one, since 1970.
func logTime(v gjson.Result) time.Time {
	if v.Type != gjson.Number {
		return parseLogTime(v.String())
	}
	seconds := v.Float()
	for math.Abs(seconds) > 1e11 {
		seconds /= 1000
	}
	return time.UnixMicro(int64(math.Round(seconds * 1e6))).UTC()
}

func parseLogTime(text string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999", "2006-01-02 15:04:05,999", "2006-01-02T15:04:05.999999999", "2006-01-02T15:04:05.000Z0700"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

// worst returns the aggregates with more than one finalization, the most first.
func (s *logScan) worst() []loggedAggregate {
	var list []loggedAggregate
	for key, a := range s.aggregates {
		if a.finalizations > 1 {
			list = append(list, loggedAggregate{ID: key.id, Type: key.kind, Finalizations: a.finalizations, Starts: a.starts, First: orNil(a.first), Last: orNil(a.last), Triggers: append([]string{}, a.triggers...)})
		}
	}
	slices.SortFunc(list, func(a, b loggedAggregate) int {
		return cmp.Or(cmp.Compare(b.Finalizations, a.Finalizations), compareTimes(a.First, b.First), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Type, b.Type))
	})
	return list
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// compareTimes puts a missing time last.
func compareTimes(a, b *time.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return a.Compare(*b)
}
