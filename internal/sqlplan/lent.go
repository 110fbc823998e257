package sqlplan

// What guard and outbox lend to finalize, and to nobody else: the SQL that the three send as one statement. Go has no word for
// what only one package of a module may see. So these are variables of an internal package, which guard and outbox set when
// they are initialized, before finalize is, which imports both; nobody sets them again.
var (
	// Events returns the SQL of an outbox.Writer; finalize knows its methods.
	Events func(writer any) any
)

// FewEvents events or fewer are passed as scalars, which the server takes faster than arrays. The number also bounds how
// many different statements a connection keeps prepared.
const FewEvents = 4

// Batch is the arguments of an insert of events that are to go in together, and which form of it takes them.
type Batch struct {
	Form Form
	Args []any
}

// Form is a form of an insert: of a few usual events, of a few of any kind, or of many. The zero Form inserts none.
type Form int

// Forms is how many forms there are. The last is that of many events.
const Forms = 2*FewEvents + 2

// Many is the form of any number of events.
const Many Form = Forms - 1

// Usual reports whether the form is for events that have what most have.
func (f Form) Usual() bool { return f <= FewEvents }

// Events is how many events a form of few inserts.
func (f Form) Events() int {
	if f.Usual() {
		return int(f)
	}
	return int(f) - FewEvents
}
