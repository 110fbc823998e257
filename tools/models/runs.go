package main

import "strings"

// run is a model with settings, and maybe a bug, which the checker has to find.
type run struct {
	model    string
	settings []string
	bug      string
	why      string // what the bug is
}

func (r run) defines() []string {
	var args []string
	for _, s := range append(r.settings, r.bug) {
		if s != "" {
			args = append(args, "-D"+s)
		}
	}
	return args
}

func (r run) String() string {
	return strings.TrimSpace(strings.Join(append([]string{r.model}, r.settings...), " ") + " " + r.bug)
}

func with(settings string) []string { return strings.Fields(settings) }

var runs = []run{
	{model: "door"},
	{model: "door", settings: with("CUTS=2")},
	{model: "door", settings: with("DOS=2 SETTLES=0")},
	{model: "door", settings: with("DOS=0 SETTLES=2 CUTS=2")},
	{model: "door", settings: with("DOS=0 DOTXS=1")},
	{model: "door", settings: with("GROUPED DOS=0 SETTLES=1 GROUPS=1 CUTS=0 DEATHS=0")},
	{model: "door", settings: with("GROUPED DOS=1 SETTLES=0 GROUPS=1 CUTS=0 DEATHS=0")},
	{model: "door", bug: "CHECK_THEN_ACT", why: "the status is looked at before, and the UPDATE has no condition"},
	{model: "door", bug: "BLIND_RETRY", why: "after a lost acknowledgement the call runs again as another attempt"},
	{model: "door", bug: "RESOLVE_EARLY", why: "the row is looked at while the COMMIT may still be on its way"},
	{model: "door", bug: "BELIEVE_THE_COUNT", why: "a row that was hit is taken for a win, whatever a trigger made of it"},
	{model: "door", bug: "IGNORE_CONFLICTS", why: "a winner's event meets a taken dedup key, and the state commits without it"},
	{model: "door", bug: "EVENTS_ANYWAY", why: "the events' insert doesn't ask whether the guard's row moved"},
	{model: "door", settings: with("DOS=0 DOTXS=1"), bug: "CACHE_IN_TRANSACTION", why: "what a caller's transaction settled is remembered before it commits"},
	{model: "door", settings: with("GROUPED DOS=1 SETTLES=0 GROUPS=1 CUTS=0 DEATHS=0"), bug: "WINS_BY_COUNT", why: "a group tells its members how many won, not which"},

	{model: "log", settings: with("WRITERS=3")},
	{model: "log", settings: with("WRITERS=3 AGGREGATES=3 LIMIT=1")},
	{model: "log", settings: with("WRITERS=2 ROWS=2 LIMIT=1")},
	{model: "log", settings: with("WRITERS=3 FAILURES=1")},
	{model: "log", settings: with("WRITERS=2 RELAYS=2")},
	{model: "log", settings: with("WRITERS=2 FAILOVER")},
	{model: "log", settings: with("WRITERS=2 ROWS=2 AT_END")},
	{model: "log", settings: with("WRITERS=2 REPLAY")},
	{model: "log", settings: with("WRITERS=3 RETENTION")},
	{model: "log", settings: with("WRITERS=1 ROWS=2 SUBSCRIPTIONS=2 RETENTION")},
	{model: "log", settings: with("WRITERS=3 READ_AHEAD")},
	{model: "log", settings: with("WRITERS=3"), bug: "XIP_ALONE", why: "late rows are looked for among the transactions that were in progress below xmax only"},
	{model: "log", settings: with("WRITERS=3"), bug: "XID_BEFORE_S", why: "the move's transaction has its xid before the reading's snapshot"},
	{model: "log", settings: with("WRITERS=3 READ_AHEAD"), bug: "PRIOR_FROM_ROW", why: "prior_position is what the row says at the move"},
	{model: "log", settings: with("WRITERS=2 ROWS=2 RELAYS=2 LIMIT=1"), bug: "NO_TOKEN", why: "whoever has lost a partition still moves its cursor"},
	{model: "log", settings: with("WRITERS=2 REPLAY"), bug: "NO_TOKEN", why: "a move that was on its way undoes a replay"},
	{model: "log", settings: with("WRITERS=2 RELAYS=2 LIMIT=1 REPLAY"), bug: "TOKENS_COUNT", why: "tokens are counted, and begin anew with a subscription that is dropped and made again"},
	{model: "log", settings: with("WRITERS=2 FAILOVER"), bug: "NO_INCARNATION", why: "a batch that was read before a fail-over is moved after it"},
	{model: "log", settings: with("WRITERS=2 ROWS=2 AT_END"), bug: "PLACED_IN_ONE_MOVE", why: "a new subscription begins at the end with one move"},
	{model: "log", settings: with("WRITERS=3 FAILURES=1"), bug: "PASS_PARKED", why: "events pass a parked one of their aggregate"},
	{model: "log", settings: with("WRITERS=3 LIMIT=1"), bug: "FRESH_BEFORE_LATE", why: "fresh rows go out between the pieces of late ones"},
	{model: "log", settings: with("WRITERS=3 ROWS=2 AGGREGATES=3 LIMIT=1"), bug: "LAST_PIECES_SNAPSHOT", why: "the cursor takes the last piece's snapshot, not the first one's"},
	{model: "log", settings: with("WRITERS=2 RETENTION"), bug: "DELETE_UNSHOWN", why: "retention deletes what the cursor has passed, but its snapshot doesn't show"},

	{model: "careful"},
	{model: "careful", settings: with("KILLERS=2 EVENTS=4")},
	{model: "careful", bug: "NO_CARE", why: "who takes over publishes the batch again as a whole"},

	{model: "inbox"},
	{model: "inbox", settings: with("TRANSACTIONAL")},
	{model: "inbox", bug: "ROW_FIRST", why: "the inbox row has a transaction of its own, before the effect's"},
	{model: "inbox", bug: "EFFECT_FIRST", why: "the effect has a transaction of its own, before the inbox row's"},
	{model: "inbox", settings: with("TRANSACTIONAL"), bug: "MOVE_APART", why: "the cursor moves in a transaction after the effects'"},
	{model: "inbox", settings: with("TRANSACTIONAL"), bug: "CURSOR_WITHOUT_TOKEN", why: "whoever has lost the partition still moves its cursor"},

	// Bugs that break nothing in these settings: the page says why.
	{model: "log", settings: with("WRITERS=2 RELAYS=2 PRIOR_FROM_ROW")},
	{model: "log", settings: with("WRITERS=2 RELAYS=2 NO_TOKEN")},
	{model: "log", settings: with("WRITERS=2 FAILOVER TOKENS_COUNT")},
}
