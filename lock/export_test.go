package lock

// Keys is how many keys callers of this process hold or wait for.
func (r *Redis) Keys() int { return r.queues.len() }

// Keys is how many keys callers of this process hold or wait for.
func (l *Local) Keys() int { return l.queues.len() }

func (q *queues) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.byKey)
}
