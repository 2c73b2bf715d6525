// Package kill holds what is proved about single moments: stoker dies, or is told of a fault, at the Nth system call of
// a kind that changes files. The binary is the released one; strace does it.
package kill

import (
	"os"
	"testing"

	"stoker/test/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
