package inbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
)

// claim is a file that was renamed into .processing and is not a batch yet.
type claim struct {
	id        string
	queue     string
	name      store.FileName
	since     time.Time // it was claimed, or changed after that
	print     fingerprint
	due       time.Time // when to try to admit it, or to try again
	admitting bool
	complete  bool // nothing more is expected of it
	tries     int
	reason    string
}

// queueFile stands beside a claimed file and names its queue, for an admission that a crash cut off.
const queueFile = ".queue"

func (in *Inbox) claimPath(id string, name store.FileName) string {
	return filepath.Join(in.processing(), id, string(name))
}

// takeReady claims the files that are complete.
func (in *Inbox) takeReady() {
	var ready []fileKey
	for k, f := range in.files {
		if f.ready {
			ready = append(ready, k)
		}
	}
	slices.SortFunc(ready, func(a, b fileKey) int { // first come, first served
		return in.files[a].seen.Compare(in.files[b].seen)
	})
	for _, k := range ready {
		f := in.files[k]
		id, err := in.claim(k, f)
		if err != nil {
			f.wait("cannot be claimed: " + reasonOf(err))
			in.o.Logger.Warn().Err(err).Str("name", k.name.String()).Msg("cannot claim")
			continue
		}
		delete(in.files, k)
		if id != "" {
			in.claims[id] = &claim{id: id, queue: k.queue, name: k.name, since: time.Now(), print: f.print, complete: f.tail, reason: "being copied"}
		}
	}
}

// claim renames a file into .processing and makes that durable. The id is empty if it was not the file that was watched.
func (in *Inbox) claim(k fileKey, f *file) (id string, err error) {
	id = store.NewID()
	dir := filepath.Join(in.processing(), id)
	if err := durable.MkdirAll(dir, 0o775); err != nil {
		return "", err
	}
	if k.queue != "" {
		if err := durable.WriteFile(filepath.Join(dir, queueFile), []byte(k.queue), 0o664); err != nil {
			return "", err
		}
	}
	from, to := in.path(k), in.claimPath(id, k.name)
	if err := durable.Rename(from, to); err != nil {
		in.dropClaimDir(id)
		return "", err
	}
	faults.Crash("claim.renamed")
	if same, err := in.isWatched(to, f); err != nil || !same {
		// Somebody replaced it since it was looked at: it goes back and is watched anew.
		return "", errors.Join(err, durable.Move(to, from), os.RemoveAll(dir))
	}
	if !faults.Planted("claim-not-synced") {
		if err := durable.SyncDir(dir); err != nil {
			return "", err
		}
		if err := durable.SyncDir(filepath.Dir(from)); err != nil {
			return "", err
		}
	}
	faults.Crash("claim.synced")
	in.removeSidecars(k)
	return id, nil
}

func (in *Inbox) isWatched(path string, f *file) (bool, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	return st.Mode().IsRegular() && fingerprintOf(st).equal(f.print), nil
}

func (in *Inbox) removeSidecars(k fileKey) {
	if in.o.Ready != ReadySidecar {
		return
	}
	for _, path := range in.sidecars(k) {
		if err := ignoreMissing(os.Remove(path)); err != nil {
			in.o.Logger.Warn().Err(err).Msg("remove sidecar")
		}
	}
}

// admission is what admitting a claim came to.
type admission struct {
	claim  *claim
	record *store.Record
	err    error
}

// admitClaims starts the admissions that are due.
func (in *Inbox) admitClaims(ctx context.Context) {
	for _, c := range in.sortedClaims() {
		if in.admitting >= maxAdmissions || ctx.Err() != nil {
			return
		}
		if c.admitting || time.Now().Before(c.due) {
			continue
		}
		c.admitting = true
		in.admitting++
		c.reason = "being copied"
		a := in.admissionOf(c)
		go func() {
			r, err := in.o.Store.Admit(ctx, a)
			in.results <- admission{c, r, err}
		}()
	}
}

// sortedClaims returns the claims in the order in which they were made.
func (in *Inbox) sortedClaims() []*claim {
	all := make([]*claim, 0, len(in.claims))
	for _, c := range in.claims {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *claim) int { return a.since.Compare(b.since) })
	return all
}

func (in *Inbox) admissionOf(c *claim) store.Admission {
	return store.Admission{
		ID: c.id, Path: in.claimPath(c.id, c.name), Queue: c.queue, Defaults: in.o.Defaults(c.queue), MaxLine: in.o.MaxLine,
		Strict: in.o.Strict, Complete: c.complete, NameTaken: in.o.NameTaken, SkipEnded: in.o.SkipEnded,
	}
}

// maxRetry bounds the pause between two tries to admit a file.
const maxRetry = time.Minute

// admitted deals with the end of an admission.
func (in *Inbox) admitted(a admission) {
	c := a.claim
	c.admitting = false
	in.admitting--
	var duplicate *store.Duplicate
	switch {
	case a.err == nil:
		delete(in.claims, c.id)
		in.o.Admitted(a.record)
	case errors.As(a.err, &duplicate):
		in.setAside(c, duplicate.Of)
	case errors.Is(a.err, store.ErrTruncated), errors.Is(a.err, store.ErrNoNewline):
		in.awaitRest(c, a.err)
	case errors.Is(a.err, store.ErrChanged):
		c.reason, c.due = "is still written to", time.Now().Add(in.o.Settle)
	case errors.Is(a.err, fs.ErrNotExist) && in.isGone(c):
		in.o.Logger.Warn().Str("batch", c.id).Str("name", c.name.String()).Msg("somebody took a claimed file away")
		delete(in.claims, c.id)
		in.dropClaimDir(c.id)
	case errors.Is(a.err, context.Canceled): // the daemon stops; the next start goes on
	default:
		c.tries++
		c.reason = a.err.Error()
		c.due = time.Now().Add(min(time.Second<<min(c.tries, 6), maxRetry))
		in.o.Logger.Warn().Err(a.err).Str("batch", c.id).Msg("cannot admit; trying again")
	}
}

// awaitRest gives a compressed file that ends early the time that an uncompressed one gets for its last newline, counted
// from its last change.
func (in *Inbox) awaitRest(c *claim, cause error) {
	if st, err := os.Lstat(in.claimPath(c.id, c.name)); err == nil {
		if p := fingerprintOf(st); !p.equal(c.print) {
			c.print, c.since = p, time.Now()
		}
	}
	quiet := time.Since(c.since)
	c.complete = quiet >= in.o.TailGrace
	c.due = time.Now().Add(max(debounce, min(in.o.TailGrace/10, in.o.TailGrace-quiet)))
	c.reason = fmt.Sprintf("%v; waiting for the rest", errors.Unwrap(cause))
}

func (in *Inbox) isGone(c *claim) bool {
	_, err := os.Lstat(in.claimPath(c.id, c.name))
	return errors.Is(err, fs.ErrNotExist)
}

// Changed reports whether a batch's claimed input is no longer what its snapshot was made of.
func (in *Inbox) Changed(r *store.Record) bool {
	st, err := os.Lstat(in.claimPath(r.ID, r.Input.Name))
	return err == nil && (st.Size() != r.Input.Bytes || st.ModTime().UnixNano() != r.Input.ModTime)
}
