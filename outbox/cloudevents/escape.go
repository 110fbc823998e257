package cloudevents

import (
	"errors"
	"net/url"
	"strings"
	"unicode/utf8"
)

const hexDigits = "0123456789ABCDEF"

// Escape makes a value fit for a header, as the bindings to HTTP and NATS ask: it percent-encodes all but ASCII's printable
// characters, and of these the space, the double quote and the percent sign.
func Escape(value string) string {
	if strings.IndexFunc(value, func(c rune) bool { return special(c) }) < 0 {
		return value
	}
	var b strings.Builder
	for i := range len(value) {
		c := value[i]
		if special(rune(c)) {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func special(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '%' }

// Unescape undoes Escape. It also takes a quoted string, as HTTP has it. What isn't UTF-8 afterwards is refused.
func Unescape(value string) (string, error) {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = unquote(value[1 : len(value)-1])
	}
	plain, err := url.PathUnescape(value)
	if err != nil {
		return "", errors.New("is not percent-encoded as CloudEvents asks")
	}
	if !utf8.ValidString(plain) {
		return "", errors.New("is not valid UTF-8")
	}
	return plain, nil
}

// unquote resolves the quoted pairs of RFC 7230.
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
