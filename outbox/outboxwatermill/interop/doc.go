// Package interop tests package outboxwatermill with Watermill's publishers for brokers: its AMQP one against RabbitMQ, and its
// Kafka one against kfake, franz-go's Kafka in the process. It is a module of its own, so that the package requires neither.
package interop
