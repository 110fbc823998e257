package main

// losers are the cases of calls for an aggregate that is final.
func (b *bencher) losers() []bcase {
	many := load{workers: connections, rows: finalRows, final: true}
	single := load{workers: 1, rows: finalRows, final: true}
	known := load{workers: connections, rows: 1000, final: true, step: 256}
	cases := []bcase{
		{name: "loser-cached-vs-select", peer: "indexed SELECT",
			ours: b.each(known, b.do(b.status, false)), theirs: b.each(many, b.handSelect)},
		{name: "loser-settle-vs-river", peer: "begin, update of 0 rows, rollback, as River's users write it",
			ours: b.each(many, b.settle(b.status, false)), theirs: b.each(many, b.handLoses)},
		{name: "loser-do-vs-river", peer: "begin, update of 0 rows, rollback, as River's users write it",
			ours: b.each(many, b.do(b.status, false)), theirs: b.each(many, b.handLoses)},
		// One after the other, so that the ratio is that of the times they take.
		{name: "loser-settle-vs-select", peer: "indexed SELECT, one after the other", must: 0.95,
			ours: b.each(single, b.settle(b.alone[byStatus], false)), theirs: b.each(single, b.handSelect)},
		{name: "loser-do-vs-select", peer: "indexed SELECT, one after the other", must: 0.95,
			ours: b.each(single, b.do(b.alone[byStatus], false)), theirs: b.each(single, b.handSelect)},
	}
	if b.quick {
		return cases
	}
	cases = append(cases, b.losses()...)
	for _, name := range []string{byStatus, byLedger, byBoth} {
		cases = append(cases,
			bcase{name: name + "/saturated-loser-settle-vs-select", peer: "indexed SELECT",
				ours: b.each(many, b.settle(b.alone[name], false)), theirs: b.each(many, b.handSelect)},
			bcase{name: name + "/saturated-loser-do-vs-select", peer: "indexed SELECT",
				ours: b.each(many, b.do(b.alone[name], false)), theirs: b.each(many, b.handSelect)})
	}
	return cases
}
