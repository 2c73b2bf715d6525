package rig

import (
	"os"
	"strconv"
	"testing"
)

// Number is what an environment variable says of how much is to be done, usual if it says nothing.
func Number(t testing.TB, variable string, usual int) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}
