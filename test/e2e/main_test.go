// Package e2e holds what is proved about stoker as a whole, killed at random moments and at every step that promises
// durability.
package e2e

import (
	"os"
	"testing"

	"stoker/test/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
