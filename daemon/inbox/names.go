package inbox

import (
	"path"
	"strings"

	"stoker/store"
)

// neverTaken are patterns of names that no one means as a batch: hidden and unfinished files of editors, browsers, copy
// programs and NAS boxes.
var neverTaken = []string{
	".*", "*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.swp", "*.lock", "*~", "~$*", "#*#", "*.done",
	"thumbs.db", "desktop.ini",
}

// IsIgnored reports whether a name is one of neverTaken. Such files are not even mentioned.
func IsIgnored(name string) bool {
	lower := strings.ToLower(name)
	for _, pattern := range neverTaken {
		if ok, _ := path.Match(pattern, lower); ok {
			return true
		}
	}
	return false
}

// isBatch reports whether a name is that of a batch file.
func isBatch(name string) bool {
	_, _, ok := store.SplitInputName(name)
	return ok
}

// splitName cuts a batch file's name before its suffixes, ".jsonl" in any case and what follows.
func splitName(name string) (stem, suffixes string) {
	const suffix = ".jsonl"
	for at := len(name) - len(suffix); at >= 0; at-- {
		if strings.EqualFold(name[at:at+len(suffix)], suffix) {
			return name[:at], name[at:]
		}
	}
	return name, ""
}
