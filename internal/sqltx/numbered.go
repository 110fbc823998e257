package sqltx

import "strings"

// numbered is a statement for SQLite whose $1 is ?1, outside of quotes and comments. To SQLite $1 is a name like $any, and which
// argument it gets is its driver's affair: mattn's gives them out in the order in which the names first occur.
func numbered(query string) string {
	if !strings.Contains(query, "$") {
		return query
	}
	var b strings.Builder
	b.Grow(len(query))
	for i := 0; i < len(query); {
		end := i + 1
		switch c := query[i]; {
		case c == '\'' || c == '"' || c == '`':
			end = after(query, i+1, string(c))
		case c == '[':
			end = after(query, i+1, "]")
		case strings.HasPrefix(query[i:], "--"):
			end = after(query, i, "\n")
		case strings.HasPrefix(query[i:], "/*"):
			end = after(query, i+2, "*/")
		case wordly(c):
			for end < len(query) && (wordly(query[end]) || query[end] == '$') {
				end++
			}
		case c == '$' && end < len(query) && query[end] >= '1' && query[end] <= '9':
			b.WriteByte('?')
			i++
			for end < len(query) && query[end] >= '0' && query[end] <= '9' {
				end++
			}
		}
		b.WriteString(query[i:end])
		i = end
	}
	return b.String()
}

// after returns where a mark that begins at i or later ends.
func after(text string, i int, mark string) int {
	if n := strings.Index(text[i:], mark); n >= 0 {
		return i + n + len(mark)
	}
	return len(text)
}

// wordly reports whether a byte can be in a name. A dollar can, but for the first one.
func wordly(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}
