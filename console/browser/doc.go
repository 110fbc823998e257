// Package browser has the tests of the console in a real browser: make test-console runs them. It is a module of its own, so that
// nobody else downloads what drives one.
package browser
