package main

import (
	"bufio"
	"bytes"
	"context"
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
			return wrapped{text: m[4], at: parseLogTime(string(m[1])), stream: string(m[2]), partial: m[3][0] == 'P'}
		}
	case line[0] == '{' && bytes.Contains(line, []byte(`"log":`)) && gjson.ValidBytes(line):
		if log := gjson.GetBytes(line, "log"); log.Type == gjson.String {
			text := []byte(log.Str)
			return wrapped{text: bytes.TrimRight(text, "\r\n"), at: logTime(gjson.GetBytes(line, "time")), stream: gjson.GetBytes(line, "stream").Str,
				partial: len(text) >= dockerPart && text[len(text)-1] != '\n'}
		}
	case line[0] == '{' && bytes.Contains(line, []byte(`"MESSAGE":`)) && gjson.ValidBytes(line):
		w := wrapped{fields: map[string]string{}}
		gjson.ParseBytes(line).ForEach(func(key, value gjson.Result) bool {
			text := value.String()
			if value.IsArray() { // of bytes, where there are control characters
				var b []byte
				for _, n := range value.Array() {
					b = append(b, byte(n.Int()))
				}
				text = string(b)
			}
			w.fields[strings.ToLower(key.Str)] = text
			return true
		})
		return w.journal()
	}
	return wrapped{text: line}
}

// journal takes the line and its time out of journald's fields.
func (w wrapped) journal() wrapped {
	w.text = []byte(w.fields["message"])
	if micros := w.fields["__realtime_timestamp"]; micros != "" {
		w.at = logTime(gjson.Result{Type: gjson.Number, Num: gjson.Parse(micros).Float()})
	}
	return w
}

// isJournal reports whether a log is in journald's export format.
func isJournal(in *bufio.Reader) bool {
	begins, _ := in.Peek(len("__CURSOR="))
	return string(begins) == "__CURSOR="
}

// journal reads journald's export format: entries of FIELD=text lines, or FIELD, a size and as many bytes, with an empty line
// between them.
func (s *logScan) journal(ctx context.Context, in *bufio.Reader) error {
	fields, size := map[string]string{}, 0
	entry := func() {
		if len(fields) > 0 {
			s.unwrapped(wrapped{fields: fields}.journal())
		}
		fields, size = map[string]string{}, 0
	}
	keep := func(name, value []byte) {
		if size += len(name) + len(value); size <= maxLine {
			fields[strings.ToLower(string(name))] = string(value)
		}
	}
	for n := 0; ; n++ {
		if n%1000 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			s.tooLong(line)
			err = skipLine(ctx, in)
			line = nil
		} else if err == nil || errors.Is(err, io.EOF) && len(line) > 0 {
			s.lines++
			s.inFile++
			line = bytes.TrimSuffix(line, []byte("\n"))
			if name, value, found := bytes.Cut(line, []byte("=")); found {
				keep(name, value)
			} else if len(line) == 0 {
				entry()
			} else if err == nil {
				name := bytes.Clone(line)
				var value []byte
				if value, err = binaryField(in); err == nil {
					keep(name, value)
				}
			}
		}
		if errors.Is(err, io.EOF) {
			entry()
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// binaryField reads a size, as many bytes and an end of line. Of what is longer than a line may be, nothing is kept.
func binaryField(in *bufio.Reader) ([]byte, error) {
	var prefix [8]byte
	if _, err := io.ReadFull(in, prefix[:]); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	size := byteorder.LittleEndian.Uint64(prefix[:])
	if size > 1<<40 {
		return nil, errors.New("a field of journald's export format has no plausible size")
	}
	var value []byte
	if size <= maxLine {
		value = make([]byte, size)
		if _, err := io.ReadFull(in, value); err != nil {
			return nil, io.ErrUnexpectedEOF
		}
	} else if _, err := io.CopyN(io.Discard, in, int64(size)); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	_, err := in.ReadByte()
	return value, err
}

// skipLine reads on to the end of a line without keeping it.
func skipLine(ctx context.Context, in *bufio.Reader) error {
	for {
		_, err := in.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// depth is by how much a line of JSON opens more objects and lists than it closes.
func depth(line []byte) (n int) {
	inside := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case inside && c == '\\':
			i++
		case c == '"':
			inside = !inside
		case inside:
		case c == '{' || c == '[':
			n++
		case c == '}' || c == ']':
			n--
		}
	}
	return n
}
