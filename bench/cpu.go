package main

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
)

// cpuTime is the processor time that this process and the server's have used so far. Rates on a shared machine say as much
// about its other guests as about the code; the time that an operation takes from the processors says less about them.
func (b *bencher) cpuTime(ctx context.Context) (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	used := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	rows, err := b.pool.Query(ctx, "SELECT pid FROM pg_stat_activity")
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			return 0, err
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if err != nil {
			continue // Linux has it; elsewhere the client's time alone is compared
		}
		var ran time.Duration
		if _, err := fmt.Sscan(string(text), &ran); err == nil {
			used += ran
		}
	}
	return used, rows.Err()
}
