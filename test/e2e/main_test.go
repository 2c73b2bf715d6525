// Package e2e holds what is proved about stoker as a whole, killed at random moments and at every step that promises
// durability.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"stoker/test/rig"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == withoutClone3 {
		fmt.Fprintln(os.Stderr, execWithoutClone3(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(rig.Main(m))
}

// withoutClone3 has this test's binary become another program, for which the kernel has no clone3, as for services with
// RestrictNamespaces=.
const withoutClone3 = "without-clone3"

func execWithoutClone3(args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the filter is this thread's, and the next program's
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := []unix.SockFilter{ // seccomp(2): the number of a call stands first in what a filter sees
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE3, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return err
	}
	return syscall.Exec(path, args, os.Environ())
}
