package share

import (
	"io/fs"
	"time"

	"stoker/store/durable"
)

// file is an open file of a share.
type file struct {
	durable.File
	in *folder
	of *FS
}

func (f file) do(op string, do func() error) error { return f.with(op, Patience, do) }

func (f file) with(op string, patience time.Duration, do func() error) error {
	return f.of.watched(func() error { return f.in.do(op+" "+f.Name(), patience, do) })
}

// moves runs an operation that reads or writes bytes.
func (f file) moves(op string, move func() (int, error)) (n int, err error) {
	err = f.do(op, func() (err error) {
		n, err = move()
		return err
	})
	return n, err
}

func (f file) Read(b []byte) (int, error) {
	return f.moves("read", func() (int, error) { return f.File.Read(b) })
}

func (f file) ReadAt(b []byte, at int64) (int, error) {
	return f.moves("read", func() (int, error) { return f.File.ReadAt(b, at) })
}

func (f file) Write(b []byte) (int, error) {
	return f.moves("write", func() (int, error) { return f.File.Write(b) })
}

func (f file) WriteAt(b []byte, at int64) (int, error) {
	return f.moves("write", func() (int, error) { return f.File.WriteAt(b, at) })
}

func (f file) WriteString(s string) (int, error) {
	return f.moves("write", func() (int, error) { return f.File.WriteString(s) })
}

func (f file) Stat() (st fs.FileInfo, err error) {
	err = f.do("stat", func() (err error) {
		st, err = f.File.Stat()
		return err
	})
	return st, err
}

func (f file) Truncate(size int64) error {
	return f.do("truncate", func() error { return f.File.Truncate(size) })
}

func (f file) Chmod(mode fs.FileMode) error {
	return f.do("chmod", func() error { return f.File.Chmod(mode) })
}

func (f file) Chown(uid, gid int) error {
	return f.do("chown", func() error { return f.File.Chown(uid, gid) })
}

func (f file) Chtime(mtime time.Time) error {
	return f.do("set time of", func() error { return f.File.Chtime(mtime) })
}

func (f file) Sync() error     { return f.with("sync", syncPatience, f.File.Sync) }
func (f file) Datasync() error { return f.with("sync", syncPatience, f.File.Datasync) }

// Close lets go of the descriptor even while the share is silent, in which case nobody waits for it.
func (f file) Close() error {
	err := f.do("close", f.File.Close)
	if _, silent := err.(*SilentError); silent {
		go f.File.Close()
	}
	return err
}
