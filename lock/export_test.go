package lock

// Keys is how many keys callers of this process hold or wait for.
func (l *Local) Keys() int { return l.queues.Len() }
