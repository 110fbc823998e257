package main

import (
	"bufio"
	"bytes"
	byteorder "encoding/binary"
	"errors"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// wrapped is a line as what collects logs has wrapped it: Docker, a container runtime of Kubernetes (CRI), or journald.
type wrapped struct {
	text    []byte
	at      time.Time
	stream  string            // whose parts of one line belong together
	partial bool              // the line goes on
	fields  map[string]string // journald's own, in lower case
}

var criLine = regexp.MustCompile(`(?s)^(\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-]\d\d:\d\d)) (stdout|stderr) ([FP])(?::\S*)? ?(.*)$`)

// dockerPart is the least size of a part of a line that Docker splits; a shorter one without an end of line is whole.
const dockerPart = 8 << 10

// unwrap takes off what was put around a line, if anything was.
func unwrap(line []byte) wrapped {
	switch {
	case len(line) == 0:
	case line[0] >= '0' && line[0] <= '9' && bytes.Contains(line, []byte(" std")):
		if m := criLine.FindSubmatch(line); m != nil {
			return wrapped{text: m[4], at: logTime(string(m[1])), stream: string(m[2]), partial: m[3][0] == 'P'}
		}
	case line[0] == '{' && bytes.Contains(line, []byte(`"log":`)) && gjson.ValidBytes(line):
		if log := gjson.GetBytes(line, "log"); log.Type == gjson.String {
			text := []byte(log.Str)
			return wrapped{text: bytes.TrimRight(text, "\r\n"), at: logTime(gjson.GetBytes(line, "time").String()), stream: gjson.GetBytes(line, "stream").Str,
				partial: len(text) >= dockerPart && text[len(text)-1] != '\n'}
		}
	case line[0] == '{' && bytes.Contains(line, []byte(`"MESSAGE":`)) && gjson.ValidBytes(line):
		fields := map[string]string{}
		gjson.ParseBytes(line).ForEach(func(key, value gjson.Result) bool {
			text := value.String()
			if value.IsArray() { // of bytes, where there are control characters
				var b []byte
				for _, n := range value.Array() {
					b = append(b, byte(n.Int()))
				}
				text = string(b)
			}
			fields[strings.ToLower(key.Str)] = text
			return true
		})
		return ofJournal(fields)
	}
	return wrapped{text: line}
}

// ofJournal takes the line and its time out of journald's fields.
func ofJournal(fields map[string]string) wrapped {
	return wrapped{text: []byte(fields["message"]), at: logTime(fields["__realtime_timestamp"]), fields: fields}
}

// read reads a log to its end.
func (s *logScan) read(in *bufio.Reader) error {
	if begins, _ := in.Peek(len("__CURSOR=")); string(begins) == "__CURSOR=" {
		return s.journal(in)
	}
	return s.eachLine(in, func(line []byte) error {
		s.line(bytes.TrimRight(line, "\r\n"))
		return nil
	})
}

// eachLine calls f with each line that isn't too long.
func (s *logScan) eachLine(in *bufio.Reader, f func(line []byte) error) error {
	for {
		line, err := in.ReadSlice('\n')
		whole := err == nil || errors.Is(err, io.EOF) && len(line) > 0 // what is cut off by another error is no line
		long := errors.Is(err, bufio.ErrBufferFull)
		if whole || long {
			s.Lines++
			s.inFile++
		}
		if long {
			s.reject(line, tooLong)
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
		if whole {
			err = errors.Join(err, f(line))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// journal reads journald's export format: entries of FIELD=text lines, or FIELD, a size and as many bytes, with an empty line
// between them.
func (s *logScan) journal(in *bufio.Reader) error {
	fields, size := map[string]string{}, 0
	entry := func() {
		if len(fields) > 0 {
			s.unwrapped(ofJournal(fields))
		}
		fields, size = map[string]string{}, 0
	}
	defer func() { entry() }()
	return s.eachLine(in, func(line []byte) error {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			entry()
			return nil
		}
		before, value, found := bytes.Cut(line, []byte("="))
		name := strings.ToLower(string(before)) // which the next reading overwrites
		if !found {
			var err error
			if value, err = binaryField(in); err != nil {
				return err
			}
		}
		if size += len(name) + len(value); size <= maxLine {
			fields[name] = string(value)
		}
		return nil
	})
}

// binaryField reads a size, as many bytes and an end of line. Of what is longer than a line may be, nothing is kept.
func binaryField(in *bufio.Reader) (value []byte, err error) {
	var size uint64
	if byteorder.Read(in, byteorder.LittleEndian, &size) != nil {
		return nil, io.ErrUnexpectedEOF
	}
	if size > 1<<40 {
		return nil, errors.New("a field of journald's export format has no plausible size")
	}
	if size <= maxLine {
		value = make([]byte, size)
		_, err = io.ReadFull(in, value)
		size = 0
	}
	if _, more := io.CopyN(io.Discard, in, int64(size)+1); err != nil || more != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return value, nil
}
