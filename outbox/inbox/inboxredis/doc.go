// Package inboxredis keeps the claims of package inbox in Redis, for consumers whose effects are in no transaction of ours.
//
//	store, err := inboxredis.New(client, "")
//	...
//	claims, err := inbox.NewClaims(store, &inbox.ClaimsConfig{Consumer: "entitlements"})
//	...
//	handler := inbox.Handle(claims, func(ctx context.Context, event outbox.Event) error { … })
//
// What that promises, and what it doesn't, is said at inbox.Claims: usually once. Redis that loses its data, by FLUSHALL, by a
// restart without a file, or by a failover (replication is asynchronous), forgets what was handled. Each step is one script on
// one key, so Redis Cluster and Sentinel will do. Give the server a maxmemory-policy that evicts nothing, or volatile-ttl with
// room to spare: a record that is evicted is one that is forgotten.
package inboxredis
