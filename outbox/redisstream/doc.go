// Package redisstream publishes events to Redis Streams, and hands them from there to a consumer's inbox.
//
// # What it promises
//
//   - An event counts as published when Redis has answered its XADD. Whether that survives a crash is the server's setting:
//     with appendonly yes and appendfsync always it does, with everysec (and after a failover, since replication is
//     asynchronous) the last second may be lost. min-replicas-to-write narrows that.
//   - A repetition has the same id, type, payload bytes and headers, in an entry of its own: Redis drops no repeats.
//     Consumers tell them by the field id.
//   - What Redis refuses for now (LOADING, READONLY, OOM, CLUSTERDOWN, NOREPLICAS, a lost connection) is tried again. A
//     payload that is too large for it is refused for good.
//   - A batch is a few pipelines of XADD, without scripts or transactions, and each XADD has one key: it works with Redis
//     Cluster, Sentinel and read-only scripting.
//
// # Entries
//
// An entry has the fields id, type, aggregate_type, aggregate_id, content_type, schema_version, occurred_at, headers and
// payload, in that order; see the constants. Decode reads them in Go. In any other language they are text, and the payload is
// bytes. All events go to one stream, or each to the one that Config.StreamFor names.
//
// # The consumer
//
// A Consumer is a member of a consumer group. An entry is acknowledged after the inbox is done with it; after an error, or the
// death of its member, it is delivered again. What can never be handled, or was delivered too often, is kept in a stream of
// dead letters, and then acknowledged: twice, if its member dies in between, or Redis's answer is lost. Both have the entry's id.
//
// # Its limits
//
// Nothing is trimmed unless the Config says so, and then trimming counts no reader: it removes entries that nobody has read
// yet, too. Choose it longer than the longest outage of a consumer.
//
// A group keeps the name of every consumer that it has had. One without ConsumerConfig.Name leaves a new name behind at each start,
// which costs Redis some memory and nothing else. Give members lasting names where they have any (a StatefulSet's pods), or remove
// those for which XINFO CONSUMERS counts nothing pending, and a long time idle, by XGROUP DELCONSUMER.
//
// A call ends with its context's deadline if the client's ContextTimeoutEnabled is set, else, and when its context is
// cancelled, within the client's ReadTimeout (go-redis's default is 5 seconds). The client's own retries send a batch again
// within one call, which the relay would do anyway: MaxRetries of -1 makes for fewer repeats. Each pipeline that finds its
// connection closed by the server is sent a second time in any case.
//
// TLS is the client's: redis.Options.TLSConfig.
package redisstream
