package pgfault

import "github.com/jackc/pgx/v5/pgproto3"

// statements knows which SQL a connection's names stand for.
type statements struct {
	prepared map[string]string // prepared statements' names to their SQL
	portals  map[string]string // portals' names to their SQL
}

func newStatements() statements {
	return statements{prepared: map[string]string{}, portals: map[string]string{}}
}

// observe takes note of a client's message, and returns the SQL that the message runs, if it runs any. A message that
// can't be read runs nothing: the server will say so.
func (s statements) observe(kind byte, body []byte) (sql string, runs bool) {
	switch kind {
	case query:
		var m pgproto3.Query
		if m.Decode(body) == nil {
			return m.String, true
		}
	case parse:
		var m pgproto3.Parse
		if m.Decode(body) == nil {
			s.prepared[m.Name] = m.Query
		}
	case bind:
		var m pgproto3.Bind
		if m.Decode(body) == nil {
			s.portals[m.DestinationPortal] = s.prepared[m.PreparedStatement]
		}
	case execute:
		var m pgproto3.Execute
		if m.Decode(body) == nil {
			return s.portals[m.Portal], true
		}
	case closing:
		var m pgproto3.Close
		if m.Decode(body) == nil {
			names := s.prepared
			if m.ObjectType == 'P' {
				names = s.portals
			}
			delete(names, m.Name)
		}
	}
	return "", false
}
