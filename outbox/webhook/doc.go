// Package webhook publishes events by HTTP, as CloudEvents 1.0 signed by the convention of Standard Webhooks, and has the
// receiving side's verification.
//
// # What it promises
//
//   - An event counts as published when the receiver has answered with a status of 2xx. The receiver has to answer so only
//     after it has taken the event for good.
//   - A repetition has the same id (CloudEvents' id and the header webhook-id), type, payload bytes and headers. Its time and
//     signature are of the attempt, as the convention asks. HTTP drops no repeats: the receiver does, by the id.
//   - Each request ends with ctx or its own timeout, and Publish returns after the last of them has ended. At most
//     Config.Concurrency run at a time.
//   - A redirect is never followed: it would carry events and credentials to somebody else.
//   - Errors and logs hold neither payloads, nor secrets, nor more of the URL than its scheme and host.
//
// # The two modes
//
// In structured mode, the default, the body is one JSON text with all attributes and the payload, so that the signature
// covers all of it. In binary mode (Config.Binary) the body is the payload alone and the attributes are headers, ce-type and
// so on, which the signature does not cover.
//
// The event's aggregate id is CloudEvents' subject, and its aggregate type and schema version are the extensions
// aggregatetype and schemaversion. A header whose name is of a-z and 0-9, such as traceparent, is an extension, too; the
// others are in the extension headers, as a JSON object.
//
// # Its limits
//
// One event is one request, so a distant receiver takes Config.Concurrency events in a round trip's time. Events of
// different aggregates arrive in any order.
package webhook
