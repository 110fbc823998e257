// Package cloudevents maps an event to CloudEvents 1.0 and back, for packages that publish to a broker or read from one.
//
// In structured mode an event is one JSON text: Structured and ParseStructured. In binary mode its payload is the message's
// data, and each attribute a header of the message, with the prefix that the transport's binding names: Attributes and
// FromAttributes, with Escape and Unescape for transports whose headers are ASCII (HTTP, NATS). Kafka's are UTF-8, unescaped.
//
//	CloudEvents               outbox.Event
//	id, type, time            ID, Type, OccurredAt; an id of others that isn't a UUID is the header originalid
//	source                    what the publisher is told; not kept
//	subject                   AggregateID
//	aggregatetype (extension) AggregateType
//	schemaversion (extension) SchemaVersion
//	datacontenttype           ContentType
//	data                      Payload
//	other extensions          the Headers that may be attributes: a name of 1 to 20 of a-z and 0-9 that isn't one of the
//	                          above, and a printable value
//	headers (extension)       the other Headers, as a JSON object of strings
//
// So trace context (traceparent, tracestate) arrives where the CloudEvents libraries look for it, and no header is lost.
package cloudevents
