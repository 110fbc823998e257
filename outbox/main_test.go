package outbox_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// The tests wait for databases more than for the processor.
	_ = flag.Set("test.parallel", "8")
	goleak.VerifyTestMain(m)
}
