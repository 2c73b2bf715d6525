package inbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
)

// move puts a claimed file into a folder of the archive under its name, or the next free one: x~2.jsonl. It tells before
// under which.
func (a *archiver) move(from, folder, queue string, name store.FileName, before func(to string) error) (string, error) {
	if st, err := a.fs.Lstat(from); err != nil {
		return "", err
	} else if !st.Mode().IsRegular() { // the file was taken away; the archive is no place for what is there instead
		return "", cmp.Or(a.giveBack(from, queue, name), fs.ErrNotExist)
	}
	dir := filepath.Join(a.archiveDir, folder, queue)
	if err := durable.MkdirAll(a.fs, dir, 0o775); err != nil {
		return "", err
	}
	if to, err := a.copied(from, dir); err != nil {
		return "", err
	} else if to != "" {
		return to, errors.Join(ignoreMissing(a.fs.Remove(moveTemp(claimOf(from), dir))), a.endOriginal(from, to))
	}
	for to := range a.names(claimOf(from), dir, string(name)) {
		if _, err := a.fs.Lstat(noteBeside(to)); err == nil {
			continue // x.jsonl and x.jsonl.gz would share a note
		}
		if err := before(to); err != nil {
			return "", err
		}
		if err := a.moveTo(from, to); !errors.Is(err, fs.ErrExist) {
			return to, err
		}
	}
	return "", fs.ErrExist // there is always another one
}

// names are those that a claimed file may get in a folder of the archive. It tries the one first that it has reserved, or
// it would come to hold two, and others would pass over one of them.
func (a *archiver) names(id, dir, name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if to := a.reserved.of(id); filepath.Dir(to) == dir && !yield(to) {
			return
		}
		for n := 1; yield(filepath.Join(dir, numbered(name, n))); n++ {
		}
	}
}

// syncArchive makes a move durable that a crash may have cut off behind its rename, before the claim is forgotten.
func (f *folders) syncArchive(folder, queue string) error {
	return ignoreMissing(durable.SyncDir(f.fs, filepath.Join(f.archiveDir, folder, queue)))
}

func (a *archiver) moveTo(from, to string) error {
	err := a.fs.RenameNew(from, to)
	if errors.Is(err, unix.EXDEV) {
		return a.moveAcross(from, to)
	}
	if err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(a.fs, filepath.Dir(to)), durable.SyncDir(a.fs, filepath.Dir(from)))
}

// movedFile stands beside a claimed file that is moved to another filesystem, and names the copy within the archive, whose
// folder may have moved by the next start. Without it a crash between the copy's appearing and the original's end would
// make another copy.
const movedFile = ".moved"

// reservations are the names in the archive that copies are to get: each by its claim. It keeps its name until it has it,
// also if a try failed, or a crash came: another file of the same name and bytes would be taken for its copy.
type reservations struct{ names sync.Map }

// reserve reports whether a claim may note a name as its copy's.
func (r *reservations) reserve(to, id string) bool {
	owner, taken := r.names.LoadOrStore(to, id)
	return !taken || owner == id
}

// of is the name that a claim has reserved, "" if it has none.
func (r *reservations) of(id string) (name string) {
	r.names.Range(func(to, owner any) bool {
		if owner == id {
			name = to.(string)
		}
		return name == ""
	})
	return name
}

// release frees what a claim has reserved.
func (r *reservations) release(id string) {
	r.names.Range(func(to, owner any) bool {
		if owner == id {
			r.names.Delete(to)
		}
		return true
	})
}

// reserveNoted reserves the name that a claim had noted when a crash came.
func (f *folders) reserveNoted(id string) error {
	to, err := f.notedCopy(f.claimPath(id, movedFile))
	if to != "" {
		f.reserved.reserve(to, id)
	}
	return err
}

// moveAcross copies a file to another filesystem, and ends the original once the copy is durable under its name.
func (a *archiver) moveAcross(from, to string) error {
	id := claimOf(from)
	if !a.reserved.reserve(to, id) {
		return fs.ErrExist
	}
	if _, err := a.fs.Lstat(to); err == nil {
		a.reserved.release(id)
		return fs.ErrExist
	}
	tmp := moveTemp(id, filepath.Dir(to))
	name, err := filepath.Rel(a.archiveDir, to)
	if err == nil {
		err = durable.Copy(a.fs, from, tmp)
	}
	if err == nil {
		err = durable.WriteFile(a.fs, filepath.Join(filepath.Dir(from), movedFile), []byte(name), 0o664)
	}
	if err == nil {
		err = a.fs.RenameNew(tmp, to)
	}
	if err != nil {
		a.fs.Remove(tmp)
		return fmt.Errorf("move %s to another filesystem: %w", from, err)
	}
	return a.endOriginal(from, to)
}

// claimOf is the id of the claim that a file is in.
func claimOf(path string) string { return filepath.Base(filepath.Dir(path)) }

// moveTemp is the copy's name while it is made: what a crash leaves behind is known by the batch's id.
func moveTemp(id, dir string) string {
	return filepath.Join(dir, durable.MovePrefix+id+".tmp")
}

// dropHalf removes half a copy in a folder of the archive whose original is gone, or goes elsewhere, for good: once the claim
// is forgotten nobody would know what a power cut brings back.
func (f *folders) dropHalf(id, folder, queue string) error {
	if err := ignoreMissing(f.fs.Remove(moveTemp(id, filepath.Join(f.archiveDir, folder, queue)))); err != nil {
		return err
	}
	return f.syncArchive(folder, queue)
}

// endOriginal removes a file once its copy's name is durable.
func (a *archiver) endOriginal(from, to string) error {
	if err := durable.SyncDir(a.fs, filepath.Dir(to)); err != nil {
		return err
	}
	if err := a.fs.Remove(from); err != nil {
		return err
	}
	return durable.SyncDir(a.fs, filepath.Dir(from))
}

// copied returns the copy of a claimed file that an attempt before has made in a folder of the archive, "" if there is none.
func (f *folders) copied(from, dir string) (string, error) {
	to, err := f.notedCopy(filepath.Join(filepath.Dir(from), movedFile))
	if err != nil || filepath.Dir(to) != dir || !f.reserved.reserve(to, claimOf(from)) {
		return "", err // a file that runs after all may have been on its way to another folder
	}
	same, err := durable.SameContents(f.fs, from, to)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !same {
		return "", nil // the attempt had not come so far
	}
	return to, err
}

// notedCopy is what movedFile says, "" if it is not there.
func (f *folders) notedCopy(path string) (string, error) {
	name, err := durable.ReadFile(f.fs, path)
	if err != nil || !filepath.IsLocal(string(name)) {
		return "", ignoreMissing(err)
	}
	return filepath.Join(f.archiveDir, string(name)), nil
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
