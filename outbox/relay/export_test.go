package relay

import "time"

// SetFirstPoll makes a relay look for events that rarely from the start, so that a test can tell a wake-up from a poll.
func SetFirstPoll(cfg *Config, d time.Duration) { cfg.firstPoll, cfg.balanceEvery = d, d }

// SetBalance has relays look rarely how their partitions are spread.
func SetBalance(cfg *Config, d time.Duration) { cfg.balanceEvery = d }

// SetPatience has the last event of a log be to blame sooner.
func SetPatience(cfg *Config, d time.Duration) { cfg.alone = d }

// SetPass has a relay go on for longer before it moves its cursors, so that a busy machine doesn't cut a batch.
func SetPass(cfg *Config, d time.Duration) { cfg.pass = d }

// SetSampling has a relay write down its cursors' way that rarely, unless it has a retention that needs more.
func SetSampling(cfg *Config, d time.Duration) { cfg.sampleEvery = d }

// SetPiece has a statement go over fewer parked events.
func SetPiece(cfg *Config, n int) { cfg.piece = n }

// SetOutage has a relay try more often while the destination takes nothing, so that a test takes less than a day.
func SetOutage(cfg *Config, low, high time.Duration) { cfg.minOutage, cfg.maxOutage = low, high }

// Readings are the statements with which a relay looks for events, by name, and what pins their plans.
func Readings(r *Relay) (pinning string, readings map[string]string) {
	return pins, map[string]string{"new": r.store.reading, "due": r.store.due, "start": r.store.ending}
}
