// Package interop checks package webhook against the libraries that others use: the CloudEvents SDK and Standard Webhooks'
// own. It has tests only, and is a module of its own so that these libraries are nobody's dependencies.
package interop
