package kafka

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/endstate-go/endstate/outbox"
)

// DefaultTopic is the topic of all events unless the Config says otherwise.
const DefaultTopic = "events"

// Config says where events go. The zero Config, or nil, is ready for use.
type Config struct {
	// Topic is the topic's name, or a template of it: {aggregatetype} and {type} stand for the event's, as in
	// "shop.{aggregatetype}". An event for which it gives no topic's name (1 to 249 of a-z, A-Z, 0-9, dot, underscore and
	// hyphen) is refused for good. Default DefaultTopic.
	Topic string
	// TopicFor names an event's topic instead.
	TopicFor func(outbox.Event) string
	// Source names where the events come from, as a URI or a path: CloudEvents' source. Default "endstate".
	Source string
	// AckTimeout is how long the cluster may take to acknowledge what one call of Publish sends. It should be shorter than a
	// relay's PublishTimeout, so that the cluster is to blame and no event, and longer than an election of leaders. Default 15
	// seconds.
	AckTimeout time.Duration
	// MaxBatchBytes bounds what is sent to a partition at once, before compression: the topics' max.message.bytes or less. An
	// event that doesn't fit is refused for good. Default 1,000,012, which Kafka's own default takes.
	MaxBatchBytes int
	// Logger gets a line at warn level where the cluster refused a batch as a whole, so that its events are sent one by one,
	// and at error level where a broker has lost what it had acknowledged. Default slog.Default().
	Logger *slog.Logger
}

// ErrConfig is returned for a Config, or client options, that don't make sense.
var ErrConfig = errors.New("kafka: invalid configuration")

const (
	minBatchBytes = 1 << 10
	maxBatchBytes = 1 << 30 // of the client
)

func (c Config) validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: Config.%s", ErrConfig, fmt.Sprintf(format, args...))
	}
	if c.Topic != "" && c.TopicFor != nil {
		return fail("Topic and Config.TopicFor are both set")
	}
	if example := fillIn(c.Topic, outbox.Event{AggregateType: "a", Type: "a"}); c.Topic != "" && !validTopic(example) {
		return fail("Topic is %q: there are {aggregatetype} and {type}, letters, digits, dots, underscores and hyphens", c.Topic)
	}
	if _, err := url.Parse(c.Source); err != nil {
		return fail("Source is not a URI reference")
	}
	if c.AckTimeout < 0 {
		return fail("AckTimeout is %v", c.AckTimeout)
	}
	if c.MaxBatchBytes != 0 && (c.MaxBatchBytes < minBatchBytes || c.MaxBatchBytes > maxBatchBytes) {
		return fail("MaxBatchBytes is %d, it goes from %d to %d", c.MaxBatchBytes, minBatchBytes, maxBatchBytes)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Topic == "" {
		c.Topic = DefaultTopic
	}
	if c.TopicFor == nil {
		template := c.Topic
		c.TopicFor = func(e outbox.Event) string { return fillIn(template, e) }
	}
	if c.Source == "" {
		c.Source = "endstate"
	}
	if c.AckTimeout == 0 {
		c.AckTimeout = 15 * time.Second
	}
	if c.MaxBatchBytes == 0 {
		c.MaxBatchBytes = 1_000_012
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// fillIn is the topic that a template names for an event.
func fillIn(template string, e outbox.Event) string {
	if !strings.Contains(template, "{") {
		return template
	}
	return strings.NewReplacer("{aggregatetype}", e.AggregateType, "{type}", e.Type).Replace(template)
}

var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// validTopic reports whether Kafka takes a name for a topic's.
func validTopic(name string) bool { return topicName.MatchString(name) && name != "." && name != ".." }
