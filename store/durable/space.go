package durable

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
)

// Space is how much room a filesystem has, in bytes.
type Space struct {
	Free  int64 // for this process
	Total int64
}

// SpaceOf returns the room on a folder's filesystem.
func SpaceOf(dir string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Space{}, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	block := int64(st.Bsize)
	return Space{Free: int64(st.Bavail) * block, Total: int64(st.Blocks) * block}, nil
}

// FullError means that a folder's filesystem has no room for what is to be written. It is waited for.
type FullError struct {
	Dir   string
	Need  int64 // bytes, at least
	Free  int64
	Total int64 // of the filesystem; 0: not known
	Err   error // ENOSPC, or EDQUOT
}

func (e *FullError) Error() string {
	need, free := humanize.IBytes(uint64(max(0, e.Need))), humanize.IBytes(uint64(max(0, e.Free)))
	switch {
	case errors.Is(e.Err, unix.EDQUOT):
		return fmt.Sprintf("the quota on %s is used up: about %s more are needed", e.Dir, need)
	case 0 < e.Total && e.Total < e.Need:
		return fmt.Sprintf("%s never has room for it: about %s are needed, and its filesystem has %s in all", e.Dir, need, humanize.IBytes(uint64(e.Total)))
	case e.Free > e.Need: // the kernel refused all the same
		return fmt.Sprintf("%s has no room left: about %s are needed, and though %s are free the filesystem takes no more (inodes?)", e.Dir, need, free)
	}
	return fmt.Sprintf("%s is full: about %s are needed, %s are free", e.Dir, need, free)
}

func (e *FullError) Unwrap() error { return e.Err }

// IsFull reports whether an error says that there is no room.
func IsFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// Full says where it is full and how much is needed, if that is what the error means. Others are returned as they are.
func Full(dir string, need int64, err error) error {
	if !IsFull(err) {
		return err
	}
	full := &FullError{Dir: dir, Need: need, Err: unix.ENOSPC}
	if errors.Is(err, unix.EDQUOT) {
		full.Err = unix.EDQUOT
	}
	if space, err := SpaceOf(dir); err == nil {
		full.Free, full.Total = space.Free, space.Total
	}
	return full
}
