//go:build !faults

// Package faults holds the places where tests break stoker: crash points and planted bugs. In a release build every
// function here is empty and compiled away; with the build tag "faults" the environment decides.
package faults

// Crash kills the process with SIGKILL if the test asked for a crash at this point.
func Crash(string) {}

// Armed reports whether the test asked for a crash at this point, for a point that needs something done before it.
func Armed(string) bool { return false }

// Hang never returns if the test asked for a hang at this point.
func Hang(string) {}

// Planted reports whether the test planted the named bug.
func Planted(string) bool { return false }
