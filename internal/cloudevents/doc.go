// Package cloudevents maps an event to CloudEvents 1.0 and back, for the publishers that speak it.
//
//	CloudEvents               outbox.Event
//	id, type, time            ID, Type, OccurredAt
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
