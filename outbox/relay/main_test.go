package relay_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childURL) != "" {
		child()
		return
	}
	flag.Parse()
	// The tests wait for databases more than for the processor.
	_ = flag.Set("test.parallel", "8")
	goleak.VerifyTestMain(m)
}
