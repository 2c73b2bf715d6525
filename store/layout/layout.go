// Package layout says how the folders are laid out that stoker shares with people. It is pure.
package layout

import (
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// The folders of the archive.
const (
	Done      = "done"
	Failed    = "failed"
	Duplicate = "duplicate"
)

// ClaimsDir holds the claims of one stoker, which its instance's id names; without one it holds such folders.
func ClaimsDir(inbox, instance string) string { return filepath.Join(inbox, ".processing", instance) }

// ClaimDir is where a file is while it is claimed.
func ClaimDir(inbox, instance, id string) string {
	return filepath.Join(ClaimsDir(inbox, instance), id)
}

// MaxName is the longest file name of common filesystems, in bytes.
const MaxName = 255

// IsQueue reports whether a name is that of a sub-folder of the inbox which people drop into, and not one of NAS boxes,
// archivers and the like. It stands in paths, and in JSON and the configuration, which hold nothing but UTF-8.
func IsQueue(name string) bool {
	switch {
	case name == "", len(name) > MaxName, strings.ContainsAny(name, "/\x00"), !utf8.ValidString(name):
		return false
	case strings.HasPrefix(name, "."), strings.HasPrefix(name, "#"), strings.EqualFold(name, "@eaDir"), name == "__MACOSX":
		return false
	}
	return true
}
