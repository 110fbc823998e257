package sqltx

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxIdent is PostgreSQL's limit in bytes; it cuts longer names off silently, so that two could become one.
const maxIdent = 63

// CheckIdent says why name can't be an identifier. Every other name can: it is always quoted.
func CheckIdent(name string) error {
	switch {
	case name == "":
		return errors.New("is empty")
	case len(name) > maxIdent:
		return fmt.Errorf("is %d bytes long, PostgreSQL takes %d", len(name), maxIdent)
	}
	return CheckText(name)
}

// CheckText says why s can't be stored as text.
func CheckText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	if strings.IndexByte(s, 0) >= 0 {
		return errors.New("contains a NUL byte")
	}
	return nil
}

// Quote quotes an identifier, qualified by schema unless that is empty. Both dialects quote alike.
func Quote(schema, name string) string {
	q := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	if schema != "" {
		q = `"` + strings.ReplaceAll(schema, `"`, `""`) + `".` + q
	}
	return q
}

// Literal quotes a PostgreSQL string constant so that it means the same whatever standard_conforming_strings says.
func Literal(s string) string {
	if strings.IndexByte(s, '\\') >= 0 {
		return `E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + `'`
	}
	return `'` + strings.ReplaceAll(s, `'`, `''`) + `'`
}
