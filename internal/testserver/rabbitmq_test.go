package testserver

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Two brokers run side by side, and each comes back under its address after it was stopped or killed.
func TestRabbitMQIsPrivate(t *testing.T) {
	var brokers []*RabbitMQ
	for range 2 {
		r, err := StartRabbitMQ()
		installed(t, err)
		t.Cleanup(r.Close)
		brokers = append(brokers, r)
	}
	require.NotEqual(t, brokers[0].Addr(), brokers[1].Addr())
	for _, end := range []func(*RabbitMQ){(*RabbitMQ).Stop, (*RabbitMQ).Kill} {
		end(brokers[0])
		require.Error(t, brokers[0].greet())
		require.NoError(t, brokers[1].greet())
		require.NoError(t, brokers[0].Start())
		require.NoError(t, brokers[0].greet())
	}
}
