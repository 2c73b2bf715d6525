// Package environment reads variables of an environment that need not be this process's own.
package environment

import (
	"slices"
	"strings"
)

// Lookup returns a variable, and whether it is set. The last one counts, as in os/exec.
func Lookup(environ []string, name string) (value string, set bool) {
	for _, v := range slices.Backward(environ) {
		if n, value, ok := strings.Cut(v, "="); ok && n == name {
			return value, true
		}
	}
	return "", false
}

// Get returns a variable, "" if it is not set.
func Get(environ []string, name string) string {
	value, _ := Lookup(environ, name)
	return value
}
