package inbox

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// What stoker needs of a file, to read it, and of a folder, to take files out of it and to look into it.
const (
	toRead = "r"
	toTake = "w"
	toLook = "rwx"
)

// refused says why something in the inbox cannot be done and, where stoker lacks a permission, how people give it: by the
// group, which is how the service shares its folders with them.
func (in *Inbox) refused(err error, path, need string) string {
	reason := reasonOf(err)
	if !errors.Is(err, syscall.EACCES) {
		return reason
	}
	st, err := in.fs.Lstat(path)
	if err != nil {
		return reason
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return reason
	}
	who, first := "g", ""
	switch groups, _ := os.Getgroups(); {
	case int(sys.Uid) == os.Geteuid():
		who = "u"
	case int(sys.Gid) != os.Getegid() && !slices.Contains(groups, int(sys.Gid)):
		first = fmt.Sprintf("chgrp %s %s && ", groupName(os.Getegid()), quoted(path))
	}
	return fmt.Sprintf("%s: '%schmod %s+%s %s' lets stoker", reason, first, who, need, quoted(path))
}

// takeFrom is the folder that keeps a file from being claimed: the one in which nothing can be made for the claim, else the
// file's own.
func (in *Inbox) takeFrom(k fileKey, err error) string {
	if at, ok := errors.AsType[*os.PathError](err); ok && at.Op == "mkdir" {
		return filepath.Dir(at.Path)
	}
	return filepath.Join(in.inboxDir, k.queue)
}

func groupName(gid int) string {
	id := strconv.Itoa(gid)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}

// quoted is a path as a shell takes it within the single quotes of an advice: those need none around it.
func quoted(path string) string {
	if strings.ContainsAny(path, " \t\n'\"\\$`&|;<>()*?[]#~!{}") {
		return strconv.Quote(path)
	}
	return path
}
