// Package interop tests that one trace goes from a trigger to its effects through each broker, with real ones. It is a module of its
// own, so that package otelendstate requires no broker's client.
package interop
