package inbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
)

// findClaims finds what a crash left claimed, also on a share that came back only later. Batches that the store knows go
// on without the inbox; what it does not know is admitted under the id that it was claimed with.
func (in *Inbox) findClaims() error {
	dirs, err := in.fs.ReadDir(in.processing)
	if ignoreMissing(err) != nil {
		return fmt.Errorf("read claims: %w", err)
	}
	known, claimed := map[string]bool{}, map[string]bool{}
	for _, c := range in.claims {
		claimed[c.id] = true
	}
	in.strayed, in.strays = in.strays, nil
	for _, d := range dirs {
		id := d.Name()
		switch {
		case in.known[id] && d.IsDir(): // most of many
			known[id] = true
		case claimed[id] || IsIgnored(id) || faults.Planted("claim-forgotten"):
		case !d.IsDir() || !store.ValidID(id):
			in.stray(id, "stoker did not put it there")
		case in.isBatch(id):
			known[id] = true
		default:
			in.findClaim(id)
		}
	}
	in.known = known
	return nil
}

// isBatch reports whether a claim became a batch. When in doubt it did: admitting it again would begin it anew.
func (in *Inbox) isBatch(id string) bool {
	_, err := in.o.Store.Get(id)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		in.log.Error().Err(err).Str("batch", id).Msg("cannot read a claim's batch")
	}
	return !errors.Is(err, store.ErrNotFound)
}

func (in *Inbox) findClaim(id string) {
	c, err := in.readClaim(id)
	switch {
	case err != nil:
		in.stray(id, reasonOf(err))
	case c == nil:
		in.dropClaimDir(id) // claimed nothing: the crash came before the rename
	default:
		in.dropOldName(c)
		in.log.Info().Str("batch", id).Str("name", c.name.String()).Msg("found claimed without a record; going on with it")
		in.claims = append(in.claims, c)
	}
}

// dropOldName takes a claimed file's name in the inbox away, which Btrfs may bring back in a power cut beside the new one.
// Otherwise it would be taken once more.
func (in *Inbox) dropOldName(c *claim) {
	old := in.path(fileKey{c.queue, c.name})
	a, err := in.fs.Lstat(old)
	if err != nil {
		return
	}
	b, err := in.fs.Lstat(in.claimPath(c.id, c.name))
	if err != nil || !durable.SameFile(a, b) {
		return
	}
	if err := in.fs.Remove(old); err != nil {
		in.log.Warn().Err(err).Str("batch", c.id).Msg("cannot remove the old name of a claimed file")
	}
}

// readClaim returns what a claim's folder holds; nil if that is nothing.
func (in *Inbox) readClaim(id string) (*claim, error) {
	dir := filepath.Join(in.processing, id)
	entries, err := in.fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(entries, isClaimed) {
		d, err := in.movedDuplicate(id)
		if d == nil || err != nil {
			return nil, err
		}
		return &claim{id: id, queue: d.queue, name: d.name, since: time.Now(), duplicate: d, reason: "set aside before a crash"}, nil
	}
	i := slices.IndexFunc(entries, isBatchFile)
	if i < 0 {
		return nil, errors.New("what it holds is no batch file")
	}
	name := store.FileName(entries[i].Name())
	st, err := in.fs.Lstat(in.claimPath(id, name))
	if err != nil {
		return nil, err
	}
	queue, err := in.queueOf(id)
	if err != nil {
		return nil, err
	}
	if err := in.reserveNoted(id); err != nil {
		return nil, err
	}
	c := &claim{
		id: id, queue: queue, name: name, since: time.Now(), print: fingerprintOf(st),
		reason: "claimed before a crash",
	}
	note, err := in.copiedAside(id, name)
	if note != nil {
		c.duplicate = c.duplicateOf(note.Of)
	}
	return c, err
}

// dropClaimDir removes a claim's folder. One that cannot be removed is found again by the next start.
func (in *Inbox) dropClaimDir(id string) {
	if err := in.removeClaimDir(id); ignoreMissing(err) != nil {
		in.log.Warn().Err(err).Msg("cannot remove claim folder")
	}
}
