package inbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"stoker/daemon/share"
	"stoker/store"
	"stoker/store/batchfile"
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
	due       time.Time // when to go on with it
	synced    bool      // the rename is durable
	admitting bool
	leaving   bool               // the archiver has it
	need      int64              // bytes in the state, as far as a try has told
	lacks     *durable.FullError // of them; nil if there are enough
	complete  bool               // nothing more is expected of it
	duplicate *duplicate
	tries     int // that failed, one after another
	reason    string
}

func (c *claim) key() fileKey { return fileKey{c.queue, c.name} }

// duplicateOf is the claim as the archiver gets it, to set it aside.
func (c *claim) duplicateOf(batch string) *duplicate {
	return &duplicate{id: c.id, queue: c.queue, name: c.name, bytes: c.print.size, of: batch}
}

// queueFile stands beside a claimed file and names its queue, for an admission that a crash cut off.
const queueFile = ".queue"

// claimsAtOnce bounds the files that one round claims, so that status and a stop need not wait for thousands.
const claimsAtOnce = 100

// takeReady claims files that are complete.
func (in *Inbox) takeReady() {
	var ready []fileKey
	for k, f := range in.files {
		if f.ready {
			ready = append(ready, k)
		}
	}
	slices.SortFunc(ready, func(a, b fileKey) int { // first come, first served
		return cmp.Or(in.files[a].seen.Compare(in.files[b].seen), strings.Compare(a.queue, b.queue), strings.Compare(string(a.name), string(b.name)))
	})
	in.more = len(ready) > claimsAtOnce
	var claims []*claim
	for _, k := range ready[:min(len(ready), claimsAtOnce)] {
		f := in.files[k]
		if f.lacks = in.lacksRoom(f.print.size); f.lacks != nil {
			f.wait(f.lacks.Error()) // where it is: the folder is its owner's
			continue
		}
		claims = append(claims, newClaim(k, f))
	}
	in.takeAll(claims)
}

// takeAll claims files, several at a time: what they sync is shared.
func (in *Inbox) takeAll(claims []*claim) {
	if len(claims) == 0 {
		return
	}
	if err := in.makeProcessing(); err != nil {
		for _, c := range claims {
			in.enter(c, false, err)
		}
		return
	}
	taken, errs := make([]bool, len(claims)), make([]error, len(claims))
	var all errgroup.Group
	all.SetLimit(atOnce)
	for i, c := range claims {
		f := in.files[c.key()]
		all.Go(func() error {
			taken[i], errs[i] = in.take(c, f)
			return nil
		})
	}
	all.Wait()
	for i, c := range claims {
		in.enter(c, taken[i], errs[i])
	}
}

// enter takes down what came of claiming a file.
func (in *Inbox) enter(c *claim, taken bool, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		in.noteFailure(c.key(), in.files[c.key()], err)
		return
	}
	delete(in.files, c.key())
	if taken {
		in.claims = append(in.claims, c)
	}
}

// noteFailure takes down why a file cannot be claimed, and says it once.
func (in *Inbox) noteFailure(k fileKey, f *file, err error) {
	reason := in.refused(err, in.takeFrom(k, err), toTake)
	if f.failed != reason {
		in.log.Warn().Err(err).Str("queue", k.queue).Str("name", k.name.String()).Str("reason", reason).Msg("cannot claim")
	}
	f.failed = reason
	f.wait("cannot be claimed: " + reason)
}

// lacksRoom returns what the state lacks for a file, nil if nothing. What else is wrong, the copy meets.
func (in *Inbox) lacksRoom(bytes int64) (full *durable.FullError) {
	errors.As(in.o.Store.Room(bytes), &full)
	return full
}

func newClaim(k fileKey, f *file) *claim {
	return &claim{id: store.NewID(), queue: k.queue, name: k.name, since: time.Now(), print: f.print, complete: f.tail, reason: "being copied"}
}

// take renames a file into .processing, unless it is not the file that was watched.
func (in *Inbox) take(c *claim, f *file) (taken bool, err error) {
	if err := in.makeClaimDir(c); err != nil {
		in.dropClaimDir(c.id)
		return false, err
	}
	from, to := in.path(c.key()), in.claimPath(c.id, c.name)
	if err := in.fs.RenameNew(from, to); err != nil {
		in.dropClaimDir(c.id)
		return false, err
	}
	faults.Crash("claim.renamed")
	if same, err := in.isWatched(to, f); err == nil && same {
		in.sync(c) // what fails isReady does again, and tells
		return true, nil
	}
	// Somebody replaced it since it was looked at: it goes back and is watched anew.
	if err := in.fs.RenameNew(to, from); err == nil {
		in.dropClaimDir(c.id)
		return false, nil
	}
	// There is another one by now. This one is watched where it is.
	c.print, c.complete = fingerprint{}, false
	return true, nil
}

// makeProcessing makes the folder of this stoker's claims.
func (in *Inbox) makeProcessing() error {
	if err := durable.MkdirAll(in.fs, filepath.Dir(in.processing), 0o775); err != nil { // other stokers' folders are in it, too
		return err
	}
	return durable.MkdirAll(in.fs, in.processing, 0o755)
}

// makeClaimDir makes a claim's folder, which is durable before its file is in it.
func (in *Inbox) makeClaimDir(c *claim) error {
	dir := filepath.Join(in.processing, c.id)
	if err := in.fs.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := durable.SyncDir(in.fs, in.processing); err != nil {
		return err
	}
	if c.queue == "" {
		return nil
	}
	return durable.WriteFile(in.fs, filepath.Join(dir, queueFile), []byte(c.queue), 0o664)
}

func (in *Inbox) isWatched(path string, f *file) (bool, error) {
	st, err := in.fs.Lstat(path)
	if err != nil {
		return false, err
	}
	return st.Mode().IsRegular() && fingerprintOf(st).equal(f.print), nil
}

// sync makes a claim's rename durable, and removes what announced the file.
func (in *Inbox) sync(c *claim) error {
	if c.synced {
		return nil
	}
	if err := in.syncFolders(c); err != nil {
		return err
	}
	faults.Crash("claim.synced")
	if err := in.removeSidecars(c.key()); err != nil && !in.isReplaced(c.queue) {
		return err
	}
	c.synced = true
	return nil
}

func (in *Inbox) syncFolders(c *claim) error {
	if faults.Planted("claim-not-synced") {
		return nil
	}
	if err := durable.SyncDir(in.fs, filepath.Join(in.processing, c.id)); err != nil {
		return err
	}
	if err := durable.SyncDir(in.fs, filepath.Join(in.inboxDir, c.queue)); err != nil && !in.isReplaced(c.queue) {
		return err
	}
	return nil
}

// isReplaced reports whether a queue's folder was removed since, or something else has its name: it has no name left to be
// synced.
func (in *Inbox) isReplaced(queue string) bool {
	st, err := in.fs.Lstat(filepath.Join(in.inboxDir, queue))
	return errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir()
}

// removeSidecars removes what announced a claimed file, for good, before its admission: it would announce the next file of this
// name before that is complete. A fault of the share is waited out.
func (in *Inbox) removeSidecars(k fileKey) error {
	if in.o.Ready != ReadySidecar {
		return nil
	}
	if _, err := in.fs.Lstat(in.path(k)); err == nil {
		return nil // it announces another file of this name by now
	}
	removed := false
	for _, path := range in.sidecars(k) {
		switch err := in.fs.Remove(path); {
		case err == nil:
			removed = true
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EISDIR): // people's to mend
			in.log.Warn().Err(err).Msg("remove sidecar")
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	if !removed {
		return nil
	}
	return durable.SyncDir(in.fs, filepath.Join(in.inboxDir, k.queue))
}

// admission is what admitting a claim came to.
type admission struct {
	claim  *claim
	record *store.Record
	err    error
}

// admitClaims goes on with the claims that are due.
func (in *Inbox) admitClaims(ctx context.Context) {
	for _, c := range slices.Clone(in.claims) {
		if len(in.admitting) >= atOnce || ctx.Err() != nil {
			return
		}
		switch {
		case c.admitting || c.leaving || time.Now().Before(c.due) || !in.mayAdmit(c):
		case c.duplicate != nil:
			in.setAside(c)
		case !in.fits(c):
		case in.isReady(c):
			in.admit(ctx, c)
		}
	}
}

// mayAdmit reports whether a claim may be copied beside those that are. Of two files with one name the first is to get it,
// and the other may be its duplicate.
func (in *Inbox) mayAdmit(c *claim) bool {
	return len(in.admitting) < atOnce && in.admitting[c.key()] == nil && (!c.isLarge() || in.largeAdmissions() < maxLarge)
}

// isLarge reports whether a file may be large, as a compressed one always may.
func (c *claim) isLarge() bool {
	_, compression, _ := store.SplitInputName(string(c.name))
	return c.print.size > largeFile || compression != batchfile.Plain
}

func (in *Inbox) largeAdmissions() (n int) {
	for _, c := range in.admitting {
		if c.isLarge() {
			n++
		}
	}
	return n
}

// promised is what the small files that are being copied may still take of the state, with their indexes. Large ones look
// themselves before they use up what must stay free.
func (in *Inbox) promised() (bytes int64) {
	for _, c := range in.admitting {
		if !c.isLarge() {
			bytes += 2 * c.print.size
		}
	}
	return bytes
}

// fits reports whether the state has room for a claimed file beside those that are being copied, else puts it off.
func (in *Inbox) fits(c *claim) bool {
	if c.lacks = in.lacksRoom(max(c.print.size, c.need) + in.promised()); c.lacks == nil {
		return true
	}
	c.reason, c.due = c.lacks.Error(), time.Now().Add(in.o.PollEvery)
	return false
}

// setAside hands a duplicate to the archiver.
func (in *Inbox) setAside(c *claim) {
	c.leaving = true
	if c.tries == 0 { // else it says what went wrong
		c.reason = "is set aside: the same file is batch " + c.duplicate.of
	}
	in.archiver.setAside(c.duplicate)
}

// isReady reports whether a claimed file may be copied: its claim is durable, and it did not change since it was last
// looked at. A writer that still has it open is waited for, rather than copied after time and again.
func (in *Inbox) isReady(c *claim) bool {
	if err := in.sync(c); err != nil {
		in.retry(c, err)
		return false
	}
	in.dropLink(c.id)
	st, err := in.fs.Lstat(in.claimPath(c.id, c.name))
	if err == nil && !st.Mode().IsRegular() {
		in.giveBackOdd(c)
		return false
	}
	if err == nil && !c.see(st) {
		c.reason, c.due = "is still written to", time.Now().Add(max(in.o.Settle, debounce))
		return false
	}
	return true // an error is the admission's to tell
}

// see compares a claimed file with what was seen of it before, and reports whether it is the same.
func (c *claim) see(st fs.FileInfo) bool {
	p := fingerprintOf(st)
	if p.equal(c.print) {
		return true
	}
	c.print, c.since, c.complete = p, time.Now(), false
	return false
}

func (in *Inbox) admit(ctx context.Context, c *claim) {
	c.admitting, c.reason = true, "being copied"
	in.admitting[c.key()] = c
	a := in.admissionOf(c)
	go func() {
		r, err := in.o.Store.Admit(ctx, a)
		in.results <- admission{c, r, err}
	}()
}

func (in *Inbox) admissionOf(c *claim) store.Admission {
	return store.Admission{
		ID: c.id, FS: in.fs, Path: in.claimPath(c.id, c.name), Queue: c.queue, Defaults: in.o.Defaults(c.queue), MaxLine: in.o.MaxLine,
		Strict: in.o.Strict, Complete: c.complete, NameTaken: in.nameTaken, SkipEnded: in.o.SkipEnded,
	}
}

// maxRetry bounds the pause between two tries to admit a file.
const maxRetry = time.Minute

// retry puts a claim off after a fault, longer each time.
func (in *Inbox) retry(c *claim, err error) {
	c.tries++
	c.reason = err.Error()
	c.due = time.Now().Add(min(time.Second<<min(c.tries, 6), maxRetry))
	in.log.Warn().Err(err).Str("batch", c.id).Str("name", c.name.String()).Msg("cannot go on with a claimed file; trying again")
}

// admitted deals with the end of an admission.
func (in *Inbox) admitted(a admission) {
	c := a.claim
	c.admitting = false
	delete(in.admitting, c.key())
	var duplicate *store.Duplicate
	switch {
	case a.err == nil:
		in.forget(c)
		in.o.Admitted(a.record)
	case errors.As(a.err, &duplicate):
		c.duplicate = c.duplicateOf(duplicate.Of)
		in.setAside(c)
	case errors.Is(a.err, store.ErrTruncated), errors.Is(a.err, store.ErrNoNewline):
		in.awaitRest(c, a.err)
	case errors.Is(a.err, store.ErrChanged):
		c.reason, c.due = "is still written to", time.Now().Add(max(in.o.Settle, debounce))
	case errors.Is(a.err, fs.ErrNotExist) && in.isGone(c.id, c.name):
		in.log.Warn().Str("batch", c.id).Str("name", c.name.String()).Msg("somebody took a claimed file away")
		in.release(c)
	case errors.Is(a.err, context.Canceled): // the daemon stops; the next start goes on
	default:
		var full *durable.FullError
		if errors.As(a.err, &full) {
			c.need = full.Need
		}
		in.retry(c, a.err) // without room it waits longer, but not after a try for nothing
	}
}

// release forgets a claim whose file has left .processing.
func (in *Inbox) release(c *claim) {
	in.forget(c)
	in.giveBackRest(c.id, c.queue)
	in.dropClaimDir(c.id)
}

func (in *Inbox) forget(c *claim) {
	in.reserved.release(c.id)
	in.claims = slices.DeleteFunc(in.claims, func(other *claim) bool { return other == c })
}

// awaitRest gives a file that ends early the time that one in the inbox gets for its last newline, counted from its last
// change.
func (in *Inbox) awaitRest(c *claim, cause error) {
	if st, err := in.fs.Lstat(in.claimPath(c.id, c.name)); err == nil {
		c.see(st)
	}
	quiet := time.Since(c.since)
	c.complete = quiet >= in.o.TailGrace
	c.due = time.Now().Add(max(debounce, min(in.o.TailGrace/10, in.o.TailGrace-quiet)))
	c.reason = fmt.Sprintf("%v; waiting for the rest", errors.Unwrap(cause))
}

// Changed reports whether a batch's claimed input is no longer what its snapshot was made of. A file that cannot be
// looked at in time counts as unchanged.
func (in *Inbox) Changed(r *store.Record) bool {
	st, err := share.Soon(func() (fs.FileInfo, error) { return in.fs.Lstat(in.claimPath(r.ID, r.Input.Name)) })
	return err == nil && (st.Size() != r.Input.Bytes || st.ModTime().UnixNano() != r.Input.ModTime)
}

// nameTaken asks the outbox whether it has result files of a name, but an outbox that does not answer, or cannot, holds up
// no admission: publishing takes another name if this one is somebody's by then.
func (in *Inbox) nameTaken(queue string, name store.FileName) (bool, error) {
	taken, err := share.Soon(func() (bool, error) { return in.o.NameTaken(queue, name) })
	if errors.Is(err, durable.ErrOutside) {
		return false, err // that is no fault of the share, and nothing could be published
	}
	if err != nil {
		in.log.Warn().Err(err).Str("name", name.String()).Msg("cannot look for the name in the outbox; taking it as free")
		return false, nil
	}
	return taken, nil
}
