// Package strictjson refuses what encoding/json silently replaces: text that isn't Unicode.
package strictjson

import (
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrNotUnicode is returned for a text with bytes that aren't UTF-8, or an escape of half a surrogate pair: encoding/json would
// make U+FFFD of it, and so one text of many.
var ErrNotUnicode = errors.New("is not valid Unicode")

// Unmarshal is json.Unmarshal for a text that is Unicode throughout.
func Unmarshal(text []byte, v any) error {
	if err := json.Unmarshal(text, v); err != nil {
		return err
	}
	if !utf8.Valid(text) || halfPair(text) {
		return ErrNotUnicode
	}
	return nil
}

// halfPair reports whether a valid JSON text escapes half a surrogate pair.
func halfPair(text []byte) bool {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		i++ // what is escaped, which may be another backslash
		first := escaped(text[i:])
		if first < 0 {
			continue
		}
		i += 4
		if !utf16.IsSurrogate(first) {
			continue
		}
		if i+1 >= len(text) || text[i+1] != '\\' || utf16.DecodeRune(first, escaped(text[i+2:])) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// escaped returns the code unit of "uXXXX" at the beginning of a text, -1 if there is none.
func escaped(text []byte) rune {
	if len(text) < 5 || text[0] != 'u' {
		return -1
	}
	unit, err := strconv.ParseUint(string(text[1:5]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(unit)
}
