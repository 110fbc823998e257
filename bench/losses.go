package main

import (
	"context"
	"fmt"
)

// losses are the cases of a load of which a part loses, to other processes: beside writing first, which costs a loser a trip
// more, and beside looking first, which costs a winner one.
func (b *bencher) losses() []bcase {
	var cases []bcase
	for _, percent := range []int{0, 20, 50, 80, 100} {
		l := b.open(connections, 60_000)
		l.lost = percent
		for _, door := range []struct {
			name  string
			do    func(fin *finalizer, win bool) one
			write one
		}{{"settle", b.settle, b.handStatusStatement}, {"do", b.do, b.handStatusPipelined}} {
			wins, loses := door.do(b.status, true), door.do(b.status, false)
			ours := b.each(l, func(ctx context.Context, n int64) error {
				if lostAlready(n, percent) {
					return loses(ctx, n)
				}
				return wins(ctx, n)
			})
			name := fmt.Sprintf("losses%d/%s", percent, door.name)
			cases = append(cases,
				bcase{name: name + "-vs-write-first", peer: "by hand; the state is read by who has lost", ours: ours, theirs: b.each(l, b.handWritesFirst(door.write))},
				bcase{name: name + "-vs-look-first", peer: "by hand, after a look at the state", ours: ours, theirs: b.each(l, b.handLooksFirst(door.write))})
		}
	}
	return cases
}

// lostAlready reports whether the n-th aggregate of a slice is final from the beginning: so many of a hundred, evenly spread.
func lostAlready(n int64, percent int) bool { return n*19%100 < int64(percent) }

// spread is lostAlready in SQL.
func spread(percent int) string { return fmt.Sprintf("n * 19 %% 100 < %d", percent) }
