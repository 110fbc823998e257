package webhook_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/webhook"
)

// Both sides. While the secret is being replaced, the sender signs with both, and the receiver takes either.
func Example() {
	retiring, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		log.Fatal(err)
	}
	current, err := webhook.ParseSecret(webhook.GenerateSecret())
	if err != nil {
		log.Fatal(err)
	}

	receiver := webhook.Receiver{Secrets: []webhook.Secret{current}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, err := receiver.Event(r)
		if err != nil {
			w.WriteHeader(webhook.Status(err))
			return
		}
		fmt.Println("received", e.Type, e.AggregateID, string(e.Payload)) // once for each id: package inbox
	}))
	defer server.Close()

	publisher, err := webhook.New(server.URL, &webhook.Config{Source: "/shop/orders", Secrets: []webhook.Secret{current, retiring}})
	if err != nil {
		log.Fatal(err)
	}
	defer publisher.Close()
	// A relay does this: relay.New(pool, publisher, nil).
	errs := publisher.Publish(context.Background(), []outbox.Event{{
		ID: uuid.New(), AggregateType: "order", AggregateID: "7", Type: "order.paid", ContentType: "application/json", Payload: []byte(`{"credits":3}`),
	}})
	fmt.Println(errs)
	// Output:
	// received order.paid 7 {"credits":3}
	// []
}
