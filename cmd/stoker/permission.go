package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"stoker/daemon"
	"stoker/daemon/api"
)

// letDrop says how a user gets to write into a folder of the inbox, or the nearest one above it that is there.
func letDrop(dir string) string {
	st, err := os.Stat(dir)
	for os.IsNotExist(err) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		st, err = os.Stat(dir)
	}
	if err != nil {
		return ""
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return ""
	case st.Mode()&0o020 == 0:
		return fmt.Sprintf("not even the group of %s may write there: 'sudo chmod g+w %s'", dir, dir)
	}
	who, _ := names(os.Geteuid(), 0)
	_, group := names(0, int(sys.Gid))
	return fmt.Sprintf("members of the group %s may: 'sudo usermod -aG %s %s', then log in anew", group, group, who)
}

// letIn says how the daemon gets the permission that it lacks for a folder, "" if that is not what is wrong.
func letIn(s *api.Storage, pid int) string {
	if s.Kind != api.Failing || !strings.HasSuffix(s.Reason, syscall.EACCES.Error()) {
		return ""
	}
	process, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return ""
	}
	daemon, ok := process.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	who, group := names(int(daemon.Uid), int(daemon.Gid))
	allow := fmt.Sprintf("sudo chgrp %s %s && sudo chmod g+rwx %s", group, s.Path, s.Path)
	if folder, err := os.Stat(s.Path); err == nil {
		if sys, ok := folder.Sys().(*syscall.Stat_t); ok && sys.Uid == daemon.Uid {
			allow = "sudo chmod u+rwx " + s.Path
		}
	}
	return fmt.Sprintf("stoker runs as %s: '%s' lets it in, as far as it is this folder that keeps it out", who, allow)
}

// letUse says how the user that stoker runs as gets a folder.
func letUse(f *daemon.FolderError) string {
	const others = "choose other folders in [paths], or one for all with --root DIR"
	who, group := names(os.Geteuid(), os.Getegid())
	if st, err := os.Stat(f.Dir); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
			owner, _ := names(int(sys.Uid), 0)
			return fmt.Sprintf("it belongs to %s, and you are %s: run stoker as %s, or %s", owner, who, owner, others)
		}
		return fmt.Sprintf("'chmod %s %s' lets its owner in; or %s", octal(f.Mode), f.Dir, others)
	}
	return fmt.Sprintf("'sudo install -d -o %s -g %s -m %s %s' makes it for %s, who runs stoker; or %s", who, group, octal(f.Mode), f.Dir, who, others)
}

// names are those of a user and a group, or their numbers where they have none.
func names(uid, gid int) (who, group string) {
	who, group = strconv.Itoa(uid), strconv.Itoa(gid)
	if u, err := user.LookupId(who); err == nil {
		who = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return who, group
}

// octal is a mode as chmod takes it.
func octal(mode os.FileMode) string {
	bits := uint32(mode.Perm())
	if mode&os.ModeSetgid != 0 {
		bits |= 0o2000
	}
	return fmt.Sprintf("%04o", bits)
}
