// Package layout says which folders stoker shares with people, and what their names mean. It is pure.
package layout

import (
	"strings"
	"unicode/utf8"
)

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
