package inbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
)

// move puts a claimed file into a folder of the archive under its name, or the next free one: x~2.jsonl. It tells before
// under which.
func (in *Inbox) move(from, folder, queue string, name store.FileName, before func(to string) error) (string, error) {
	if st, err := in.o.FS.Lstat(from); err != nil {
		return "", err
	} else if !st.Mode().IsRegular() { // the file was taken away; the archive is no place for what is there instead
		return "", cmp.Or(giveBack(in.o.FS, in.o.Dir, from, queue, name), fs.ErrNotExist)
	}
	dir := filepath.Join(in.o.Archive, folder, queue)
	if err := durable.MkdirAll(in.o.FS, dir, 0o775); err != nil {
		return "", err
	}
	if to, err := in.copied(from); err != nil {
		return "", err
	} else if to != "" {
		return to, errors.Join(ignoreMissing(in.o.FS.Remove(moveTemp(filepath.Base(filepath.Dir(from)), filepath.Dir(to)))), in.endOriginal(from, to))
	}
	for n := 1; ; n++ {
		to := filepath.Join(dir, numbered(string(name), n))
		if _, err := in.o.FS.Lstat(noteBeside(to)); err == nil {
			continue // x.jsonl and x.jsonl.gz would share a note
		}
		if err := before(to); err != nil {
			return "", err
		}
		if err := in.moveTo(from, to); !errors.Is(err, fs.ErrExist) {
			return to, err
		}
	}
}

// syncArchive makes a move durable that a crash may have cut off behind its rename, before the claim is forgotten.
func (in *Inbox) syncArchive(folder, queue string) error {
	return ignoreMissing(durable.SyncDir(in.o.FS, filepath.Join(in.o.Archive, folder, queue)))
}

func (in *Inbox) moveTo(from, to string) error {
	err := in.o.FS.RenameNew(from, to)
	if errors.Is(err, unix.EXDEV) {
		return in.moveAcross(from, to)
	}
	if err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(in.o.FS, filepath.Dir(to)), durable.SyncDir(in.o.FS, filepath.Dir(from)))
}

// movedFile stands beside a claimed file that is moved to another filesystem, and names the copy within the archive, whose
// folder may have moved by the next start. Without it a crash between the copy's appearing and the original's end would
// make another copy.
const movedFile = ".moved"

// moveAcross copies a file to another filesystem, and ends the original once the copy is durable under its name.
func (in *Inbox) moveAcross(from, to string) error {
	// Of two files that are moved at a time only one may note a name as its copy's.
	if _, taken := in.moving.LoadOrStore(to, nil); taken {
		return fs.ErrExist
	}
	defer in.moving.Delete(to)
	if _, err := in.o.FS.Lstat(to); err == nil {
		return fs.ErrExist
	}
	tmp := moveTemp(filepath.Base(filepath.Dir(from)), filepath.Dir(to))
	name, err := filepath.Rel(in.o.Archive, to)
	if err == nil {
		err = durable.Copy(in.o.FS, from, tmp)
	}
	if err == nil {
		err = durable.WriteFile(in.o.FS, filepath.Join(filepath.Dir(from), movedFile), []byte(name), 0o664)
	}
	if err == nil {
		err = in.o.FS.RenameNew(tmp, to)
	}
	if err != nil {
		in.o.FS.Remove(tmp)
		return fmt.Errorf("move %s to another filesystem: %w", from, err)
	}
	return in.endOriginal(from, to)
}

// moveTemp is the copy's name while it is made: what a crash leaves behind is known by the batch's id.
func moveTemp(id, dir string) string {
	return filepath.Join(dir, durable.MovePrefix+id+".tmp")
}

// endOriginal removes a file once its copy's name is durable.
func (in *Inbox) endOriginal(from, to string) error {
	if err := durable.SyncDir(in.o.FS, filepath.Dir(to)); err != nil {
		return err
	}
	if err := in.o.FS.Remove(from); err != nil {
		return err
	}
	return durable.SyncDir(in.o.FS, filepath.Dir(from))
}

// copied returns the copy of a claimed file that an attempt before a crash has made, "" if there is none.
func (in *Inbox) copied(from string) (string, error) {
	name, err := durable.ReadFile(in.o.FS, filepath.Join(filepath.Dir(from), movedFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !filepath.IsLocal(string(name)) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	to := filepath.Join(in.o.Archive, string(name))
	same, err := durable.SameContents(in.o.FS, from, to)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !same {
		return "", nil // the crash came before
	}
	return to, err
}

// numbered is a name for the nth file of the same name. It leaves room for the suffix of a note, which would be cut
// before the number else.
func numbered(name string, n int) string {
	if n == 1 {
		return name
	}
	stem, suffix := splitName(name)
	number := "~" + strconv.Itoa(n)
	return store.CutName(stem, len(number)+max(len(suffix), store.LongestSuffix)) + number + suffix
}
