// Package soak checks histories. Four processes call the library for the same keys while they are killed and stopped, their
// connections cut at COMMIT, their backends terminated, and the server stopped and started. Every call and every return is
// recorded with a time that all processes share, and porcupine looks for an order of the calls in which each took effect at
// once between its call and its return, and in which a key was open until one call won it, and every other call read what
// that one had written. Where there is none, the library has told somebody something wrong. The rows are looked at too.
//
// A call is one of
//
//	won      only from open: the key becomes final
//	lost     only from final, with the winner's receipt
//	open     the callback ran, and said ErrNotReady or failed: the key is open, and stays so
//	unknown  ErrOutcomeUnknown, or the process died: it took effect or not, at some time after the call
//	failed   any other error: it had no effect
//
// go test runs 100,000 operations. make soak goes on for as long as DURATION says, ten minutes unless told otherwise, in
// rounds of 100,000, and prints how far it is. Each kind of fault has to strike in each round. Finalizers that are broken on
// purpose prove that the check can fail.
package soak
