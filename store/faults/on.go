//go:build faults

// Package faults holds the places where tests break stoker: crash points and planted bugs.
package faults

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var hits atomic.Int64 // of the one crash point that STOKER_CRASH_AT names

// Crash kills the process with SIGKILL at the point that STOKER_CRASH_AT names, as POINT or POINT:N for its Nth time.
func Crash(point string) {
	name, nth := target()
	if name != point {
		return
	}
	n, err := strconv.ParseInt(nth, 10, 64)
	if err != nil {
		n = 1
	}
	if hits.Add(1) == n {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way; do not run a step further
	}
}

func target() (point, nth string) {
	point, nth, _ = strings.Cut(os.Getenv("STOKER_CRASH_AT"), ":")
	return point, nth
}

// Armed reports whether the test asked for a crash at this point, for a point that needs something done before it.
func Armed(point string) bool {
	name, _ := target()
	return name == point
}

// Hang never returns at the point that STOKER_HANG_AT names, as POINT:FILE, once that file is there.
func Hang(point string) {
	name, file, _ := strings.Cut(os.Getenv("STOKER_HANG_AT"), ":")
	if name != point {
		return
	}
	if _, err := os.Stat(file); err == nil {
		select {}
	}
}

// Planted reports whether STOKER_PLANT names this bug.
func Planted(bug string) bool { return os.Getenv("STOKER_PLANT") == bug }
