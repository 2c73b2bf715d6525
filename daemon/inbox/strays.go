package inbox

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/layout"
)

// Whoever may write to the inbox may write to .processing, too. What stoker finds there and did not put there is either
// shown where it is or given back to the inbox, where its name says what it is. It is never taken for a claimed file, and
// never removed.

// stray takes down what is in this stoker's folder under .processing and is no claim.
func (in *Inbox) stray(name, reason string) {
	if len(in.strays) >= maxIgnored {
		return
	}
	s := Waiting{Name: store.FileName(layout.ClaimDir("", in.o.Store.Instance(), name)), State: "ignored", Reason: reason}
	if !slices.Contains(in.strayed, s) { // once, not each time
		in.log.Warn().Str("name", s.Name.String()).Str("reason", reason).Msg("something under .processing is no claim")
	}
	in.strays = append(in.strays, s)
}

// giveBack moves something that was not claimed for what it is into the inbox, under its name or the next free one.
func (f *folders) giveBack(from, queue string, name store.FileName) error {
	dir := filepath.Join(f.inboxDir, queue)
	if err := durable.MkdirAll(f.fs, dir, 0o775); err != nil {
		return err
	}
	for n := 1; ; n++ {
		err := f.fs.RenameNew(from, filepath.Join(dir, numbered(string(name), n)))
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}

// giveBackOdd gives back what has a claimed file's place and is no regular file.
func (in *Inbox) giveBackOdd(c *claim) {
	if err := in.giveBack(in.claimPath(c.id, c.name), c.queue, c.name); err != nil {
		in.retry(c, err)
		return
	}
	in.log.Warn().Str("batch", c.id).Str("name", c.name.String()).Msg("somebody put something else into a claimed file's place; it is given back")
	in.release(c)
}

// giveBackRest gives the batch files back that lie beside a claimed one: each is to run, too.
func (f *folders) giveBackRest(id, queue string) {
	dir := filepath.Join(f.processing, id)
	entries, _ := f.fs.ReadDir(dir) // what cannot be read is dropClaimDir's to tell
	for _, e := range entries {
		if !isClaimed(e) {
			continue
		}
		err := errors.New("not a batch file")
		if isBatchFile(e) {
			err = f.giveBack(filepath.Join(dir, e.Name()), queue, store.FileName(e.Name()))
		}
		f.log.Warn().AnErr("left", err).Str("batch", id).Str("name", store.FileName(e.Name()).String()).Msg("somebody put a file beside a claimed one")
	}
}

// dropLink removes a link that has the place of a claim's folder: another claim's file would be taken, and moved away,
// through it.
func (f *folders) dropLink(id string) {
	dir := filepath.Join(f.processing, id)
	st, err := f.fs.Lstat(dir)
	if err != nil || st.Mode().Type() != fs.ModeSymlink {
		return
	}
	err = f.fs.Remove(dir)
	f.log.Warn().AnErr("error", err).Str("batch", id).Msg("somebody put a link into the place of a claim's folder; it is removed")
}

// isBatchFile reports whether a claim can be of this file.
func isBatchFile(e fs.DirEntry) bool {
	return isClaimed(e) && e.Type().IsRegular() && isBatch(e.Name())
}

// queueOf reads which queue a claimed file was dropped into. It stands in a path afterwards, so that nothing but a
// queue's name will do.
func (in *Inbox) queueOf(id string) (string, error) {
	f, err := durable.OpenRegular(in.fs, filepath.Join(in.processing, id, queueFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	name, err := io.ReadAll(io.LimitReader(f, layout.MaxName+1))
	if err != nil {
		return "", err
	}
	if !layout.IsQueue(string(name)) {
		return "", errors.New("its " + queueFile + " names no queue")
	}
	return string(name), nil
}
