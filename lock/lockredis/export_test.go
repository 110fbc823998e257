package lockredis

// Keys is how many keys callers of this process hold or wait for.
func (l *Lock) Keys() int { return l.queues.Len() }
