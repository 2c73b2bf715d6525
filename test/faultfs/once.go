package faultfs

import (
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Once is a fault: of the operations of a kind the Nth one fails, and no other.
type Once struct {
	Op    Op
	Errno unix.Errno
	Nth   int

	seen atomic.Int64
}

// Fails is a Rule.
func (o *Once) Fails(op Op, _ string) error {
	if op == o.Op && o.seen.Add(1) == int64(o.Nth) {
		return o.Errno
	}
	return nil
}

// Happened reports whether there were so many operations.
func (o *Once) Happened() bool { return o.seen.Load() >= int64(o.Nth) }

// String says what fails.
func (o *Once) String() string {
	return fmt.Sprintf("%s %d fails with %s", o.Op, o.Nth, unix.ErrnoName(o.Errno))
}

// most bounds which operation of a kind fails: a scan that goes on for ever has no last one.
const most = 40

// EachOnce runs a test with each operation that fails once with EIO, and the first of each kind with each errno that shares
// know.
func EachOnce(t *testing.T, test func(t *testing.T, fault *Once)) {
	for _, op := range Ops {
		for _, errno := range []unix.Errno{unix.EIO, unix.EROFS, unix.ESTALE, unix.ENOTCONN, unix.EACCES, unix.ETIMEDOUT, unix.ENOSPC, unix.EDQUOT} {
			t.Run(fmt.Sprintf("%s %s", op, unix.ErrnoName(errno)), func(t *testing.T) {
				for nth := 1; nth <= most; nth++ {
					fault := &Once{Op: op, Errno: errno, Nth: nth}
					test(t, fault)
					if !fault.Happened() || errno != unix.EIO {
						return
					}
				}
			})
		}
	}
}
