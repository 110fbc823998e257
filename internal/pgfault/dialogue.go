package pgfault

import "sync/atomic"

// dialogue knows whose turn it is on a connection. An exchange is what the client sends up to a Sync (or one simple query),
// and the server's answer up to a ReadyForQuery; they are numbered from 1, the connection's start.
type dialogue struct {
	asked    int  // exchanges that the client has finished sending
	answered int  // exchanges that the server has finished answering
	open     bool // the client has begun to send the next exchange

	inTrip  bool // the client has sent something since all was answered
	flushed bool // it has asked for an answer without a Sync
	spoken  bool // and the server has answered since
	trip    *trip
}

// sends takes note of a client's message, and returns the number of its exchange.
func (d *dialogue) sends(kind byte, counter *atomic.Pointer[trips]) int {
	exchange := d.asked + 1
	if kind == terminate || d.answered == 0 {
		return exchange
	}
	if !d.inTrip || d.spoken {
		d.inTrip, d.flushed, d.spoken = true, false, false
		d.trip = counter.Load().begin()
	}
	d.open = true
	switch {
	case asks(kind):
		d.asked++
		d.open, d.flushed = false, false
	case kind == flush:
		d.flushed = true
	}
	return exchange
}

// receives takes note of a server's message, and returns the number of the exchange that it answers.
func (d *dialogue) receives(kind byte) int {
	exchange := d.answered + 1
	d.spoken = d.spoken || d.flushed
	if kind == readyForQuery {
		d.answered++
		if d.answered == d.asked && !d.open {
			d.inTrip, d.spoken = false, false
		}
	}
	return exchange
}
