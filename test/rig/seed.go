package rig

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// SeedVar names the environment variable that draws a run's faults again.
const SeedVar = "STOKER_SEED"

// Random draws a run's faults, and tells from which seed.
func Random(t testing.TB) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv(SeedVar), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("drawn with %s=%d", SeedVar, seed)
	return rand.New(rand.NewPCG(seed, 0))
}
