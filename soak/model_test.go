package soak

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

// keyState is a key's state in the model: open, or final with a receipt.
type keyState struct {
	State   string // "" is open
	Receipt string // "" where nobody has heard of it yet: the winner's process died, say
}

// model is one key. What a call did isn't always known, so there can be several states after it.
func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{keyState{}} },
		Step: func(current, _, output any) []any {
			s, op := current.(keyState), output.(operation)
			switch op.Result {
			case won:
				if s.State == "" && op.State == state(op.Call) {
					return []any{keyState{op.State, op.Receipt}}
				}
			case lost:
				if s.State != "" && s.State == op.State && (s.Receipt == "" || op.Receipt == "" || s.Receipt == op.Receipt) {
					return []any{keyState{s.State, max(s.Receipt, op.Receipt)}}
				}
			case open:
				if s.State == "" {
					return []any{s}
				}
			case unknown:
				if s.State == "" {
					return []any{s, keyState{State: state(op.Call)}}
				}
				return []any{s}
			case failed:
				return []any{s}
			}
			return nil
		},
	}
	return m.ToModel()
}

// illegal returns the keys whose operations fit no order.
func illegal(t *testing.T, keys map[int64][]operation) []int64 {
	t.Helper()
	m := model()
	var bad []int64
	for key, ops := range keys {
		history := make([]porcupine.Operation, len(ops))
		for i, op := range ops {
			history[i] = porcupine.Operation{Output: op, Call: op.Begin, Return: op.End}
		}
		switch porcupine.CheckOperationsTimeout(m, history, time.Minute) {
		case porcupine.Illegal:
			bad = append(bad, key)
		case porcupine.Unknown:
			t.Errorf("the %d operations of key %d could not be checked within a minute", len(ops), key)
		}
	}
	slices.Sort(bad)
	return bad
}

// story tells how a key's history begins, in lines.
func story(ops []operation) string {
	var b strings.Builder
	for _, op := range ops[:min(len(ops), 100)] {
		end := "never"
		if op.End != never {
			end = fmt.Sprintf("%.3f ms", float64(op.End-ops[0].Begin)/1e6)
		}
		fmt.Fprintf(&b, "%10.3f ms to %-14s %-12s %-8s %s %s %s\n", float64(op.Begin-ops[0].Begin)/1e6, end, op.Call, op.Result, op.State, op.Receipt, op.Why)
	}
	return b.String()
}

// requireLegal fails the test if a key's operations fit no order, and tells its story.
func requireLegal(t *testing.T, h *history) {
	t.Helper()
	keys := h.byKey()
	bad := illegal(t, keys)
	for _, key := range bad[:min(len(bad), 5)] {
		t.Logf("key %d fits no order:\n%s", key, story(keys[key]))
	}
	require.Empty(t, bad, "keys whose operations fit no order")
}

func TestModel(t *testing.T) {
	op := func(begin, end int64, call, result, told, receipt string) operation {
		return operation{record{Call: call, Result: result, State: told, Receipt: receipt}, begin, end}
	}
	a, b := state("a"), state("b")
	for name, tt := range map[string]struct {
		legal bool
		ops   []operation
	}{
		"one wins, one loses":                  {true, []operation{op(1, 4, "a", won, a, "r"), op(2, 3, "b", lost, a, "r")}},
		"two win":                              {false, []operation{op(1, 4, "a", won, a, "r"), op(2, 3, "b", won, b, "q")}},
		"won with another's state":             {false, []operation{op(1, 4, "a", won, b, "r")}},
		"lost to nobody":                       {false, []operation{op(1, 2, "b", lost, a, "r")}},
		"lost before the winner began":         {false, []operation{op(1, 2, "b", lost, a, "r"), op(3, 4, "a", won, a, "r")}},
		"lost with another receipt":            {false, []operation{op(1, 2, "a", won, a, "r"), op(3, 4, "b", lost, a, "q")}},
		"lost to itself":                       {false, []operation{op(1, 2, "a", lost, a, "r")}},
		"open before":                          {true, []operation{op(1, 2, "b", open, "", ""), op(3, 4, "a", won, a, "r")}},
		"open afterwards":                      {false, []operation{op(1, 2, "a", won, a, "r"), op(3, 4, "b", open, "", "")}},
		"a failed call has no effect":          {false, []operation{op(1, 2, "a", failed, "", ""), op(3, 4, "b", lost, a, "r")}},
		"an unknown call took effect":          {true, []operation{op(1, never, "a", unknown, "", ""), op(3, 4, "b", lost, a, "r")}},
		"an unknown call took effect late":     {true, []operation{op(1, never, "a", unknown, "", ""), op(3, 4, "b", open, "", ""), op(5, 6, "c", lost, a, "r")}},
		"an unknown call took no effect":       {true, []operation{op(1, never, "a", unknown, "", ""), op(3, 4, "b", won, b, "r")}},
		"an unknown call took effect too late": {false, []operation{op(1, never, "a", unknown, "", ""), op(3, 4, "b", won, b, "r"), op(5, 6, "c", lost, a, "r")}},
		"two receipts of an unknown winner":    {false, []operation{op(1, never, "a", unknown, "", ""), op(3, 4, "b", lost, a, "r"), op(5, 6, "c", lost, a, "q")}},
		"rows that say otherwise":              {false, []operation{op(1, 2, "a", won, a, "r"), op(3, 4, "rows", open, "", "")}},
	} {
		t.Run(name, func(t *testing.T) {
			bad := illegal(t, map[int64][]operation{1: tt.ops})
			require.Equal(t, tt.legal, len(bad) == 0, story(tt.ops))
		})
	}
}
