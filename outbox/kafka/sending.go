package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/endstate-go/endstate/outbox"
)

// sending is one call of Publish. An aggregate's events go out in their order, in one round if they go to one topic, and so to one
// partition, of which the client takes none after it has failed one. Those that go elsewhere wait for a round of their own.
type sending struct {
	*Publisher
	batch   []outbox.Event
	records []*kgo.Record // nil for what can't be sent
	errs    []error
	done    []bool // sent, or refused
	next    int    // the first that isn't done
	refused map[aggregate]bool
}

// aggregate is what an event is about.
type aggregate struct{ kind, id string }

var errEarlierRefused = errors.New("kafka: not sent, since an earlier event of its aggregate was refused")

func newSending(p *Publisher, batch []outbox.Event) *sending {
	b := &sending{Publisher: p, batch: batch, records: make([]*kgo.Record, len(batch)), errs: make([]error, len(batch)), done: make([]bool, len(batch)), refused: map[aggregate]bool{}}
	for i, e := range batch {
		b.records[i], b.errs[i] = p.record(e)
	}
	return b
}

func (b *sending) aggregate(i int) aggregate {
	return aggregate{b.batch[i].AggregateType, b.batch[i].AggregateID}
}

// end notes what became of an event.
func (b *sending) end(i int, err error) {
	b.done[i], b.errs[i] = true, err
	if err != nil {
		b.refused[b.aggregate(i)] = true
	}
}

// record makes an event's record. What can't be sent is refused for good.
func (p *Publisher) record(e outbox.Event) (*kgo.Record, error) {
	topic := p.cfg.TopicFor(e)
	if !validTopic(topic) {
		return nil, outbox.Permanent(fmt.Errorf("kafka: the topic for type %.60q is %.60q, which Kafka doesn't take as a name", e.Type, topic))
	}
	r, err := record(e, topic, p.cfg.Source)
	if err != nil {
		return nil, outbox.Permanent(fmt.Errorf("kafka: %w", err))
	}
	return r, nil
}

// send sends round after round. A batch that the cluster refuses for a record in it fails as a whole, others' events too: from
// then on each is sent alone.
func (b *sending) send(ctx context.Context) {
	for alone := false; ; {
		round := b.round(alone)
		if len(round) == 0 {
			return
		}
		if ctx.Err() != nil {
			b.giveUp(ctx)
			return
		}
		records := make([]*kgo.Record, len(round))
		for n, i := range round {
			records[n] = b.records[i]
		}
		for n, err := range b.produce(ctx, records) {
			switch {
			case err == nil:
				b.end(round[n], nil)
			case unacceptable(err) && len(round) > 1: // another one's fault, perhaps
				if !alone {
					b.cfg.Logger.WarnContext(ctx, "kafka: a batch was refused as a whole, sending its events one by one", "events", len(round), "topic", records[n].Topic, "error", err)
				}
				alone = true
			case unacceptable(err):
				b.end(round[n], outbox.Permanent(fmt.Errorf("kafka: publish to %q: %w", records[n].Topic, err)))
			default:
				b.end(round[n], fmt.Errorf("kafka: publish to %q: %w", records[n].Topic, err))
			}
		}
	}
}

// round chooses what is sent next, in order: of each aggregate the first events that go to one topic, up to one that may be too
// large for the client, which fails such a one by itself. Alone, it is one event.
func (b *sending) round(alone bool) (round []int) {
	for b.next < len(b.batch) && b.done[b.next] {
		b.next++
	}
	const waits = "" // no topic
	topics := map[aggregate]string{}
	for i := b.next; i < len(b.batch); i++ {
		if b.done[i] {
			continue
		}
		a, r := b.aggregate(i), b.records[i]
		topic, begun := topics[a]
		switch {
		case b.refused[a]:
			b.end(i, errEarlierRefused)
		case begun && (topic == waits || r != nil && topic != r.Topic):
			topics[a] = waits
		case r == nil:
			b.end(i, b.errs[i])
		case alone:
			return []int{i}
		default:
			round = append(round, i)
			if topics[a] = r.Topic; size(r) > b.cfg.MaxBatchBytes/2 {
				topics[a] = waits
			}
		}
	}
	return round
}

// giveUp fails what wasn't sent.
func (b *sending) giveUp(ctx context.Context) {
	for i := range b.batch {
		if !b.done[i] {
			b.end(i, fmt.Errorf("kafka: not sent: %w", context.Cause(ctx)))
		}
	}
}

// result is what Publish returns.
func (b *sending) result() []error {
	if len(b.refused) == 0 {
		return nil
	}
	return b.errs
}
