package inbox

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"stoker/store"
	"stoker/store/durable"
)

// folders are where a file is while it is claimed, and where it goes. Inbox and archiver each have them on a filesystem of
// their own, and share nothing but the reserved names.
type folders struct {
	fs         durable.FS
	inboxDir   string
	archiveDir string
	processing string // the folder of this stoker's claims
	reserved   *reservations
	log        zerolog.Logger
}

func (f *folders) claimPath(id string, name store.FileName) string {
	return filepath.Join(f.processing, id, string(name))
}

// isGone reports whether a claimed file was taken away. While the inbox itself is missing, because a share is not
// mounted, nobody knows.
func (f *folders) isGone(id string, name store.FileName) bool {
	_, err := f.fs.Lstat(f.claimPath(id, name))
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err = f.fs.Lstat(f.processing)
	return err == nil
}

// removeClaimDir removes a claim's folder. It leaves one that holds a claimed file.
func (f *folders) removeClaimDir(id string) error {
	dir := filepath.Join(f.processing, id)
	entries, err := f.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		// Whoever removed it may have died before that was durable. While the folder above is missing a share is away, and
		// the claim's comes back with it.
		return durable.SyncDir(f.fs, f.processing)
	}
	if slices.ContainsFunc(entries, isClaimed) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, f.fs.Remove(filepath.Join(dir, e.Name())))
	}
	if err == nil {
		err = f.fs.Remove(dir)
	}
	if err == nil {
		err = durable.SyncDir(f.fs, f.processing)
	}
	return ignoreMissing(err)
}

// isClaimed tells the claimed file from what stands beside it: the queue's name, whole or half written, and what NFS
// keeps of removed files.
func isClaimed(e fs.DirEntry) bool { return !strings.HasPrefix(e.Name(), ".") }
