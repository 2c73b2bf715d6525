package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/oklog/ulid/v2"
	"go.etcd.io/bbolt"

	"stoker/store/durable"
	"stoker/store/journal"
	"stoker/store/layout"
)

// Rebuilt is what Rebuild found and did.
type Rebuilt struct {
	Rebuilt  bool          `json:"rebuilt"`          // there is a new database
	Reason   string        `json:"reason,omitzero"`  // what was wrong with the old one; "" if nothing was
	Database string        `json:"database"`         // the file
	Aside    string        `json:"aside,omitzero"`   // where the old one is now; "" if it was lost
	Instance string        `json:"instance"`         // this stoker's id
	Adopted  bool          `json:"instance_adopted"` // the id was kept, or told by claims; else it is new
	Batches  int           `json:"batches"`
	States   map[State]int `json:"states"`
	Requests int64         `json:"requests"`
	Records  int64         `json:"records"`
	Skipped  []Skipped     `json:"skipped"`
	Claims   []string      `json:"claims"` // ids of claimed files that the next start admits
}

// Skipped is a folder that Rebuild could make no batch of.
type Skipped struct {
	Folder string `json:"folder"`
	Reason string `json:"reason"`
	// Blocked says that its claimed file is not admitted again either: results of it may be in the folder or in the
	// outbox.
	Blocked bool `json:"blocked"`
	// Kept says that the old database knew the batch, and that what it knew is in the new one.
	Kept bool `json:"kept"`
}

// Rebuild makes the database anew from the batch folders, each read as recovery reads it, and from the claims. The old one
// is moved aside. Without anything wrong it does so only by force. The error is ErrInUse while another process has the
// state, and ErrNoState if there is none.
func Rebuild(ctx context.Context, dir string, folders Folders, force bool) (*Rebuilt, error) {
	lock, err := lockExisting("rebuild", dir, true)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	r := &rebuild{
		old: newStore(dir, durable.Local{}, lock, true), folders: folders.complete(),
		report: &Rebuilt{Database: filepath.Join(dir, dbName), States: map[State]int{}, Skipped: []Skipped{}, Claims: []string{}},
	}
	if err := r.run(ctx, force); err != nil {
		return nil, fmt.Errorf("rebuild state %s: %w", dir, err)
	}
	return r.report, nil
}

// rebuild is one run of Rebuild.
type rebuild struct {
	old     *Store
	next    *Store
	folders Folders
	report  *Rebuilt
}

func (r *rebuild) run(ctx context.Context, force bool) (err error) {
	defer func() {
		if r.old.db != nil {
			err = errors.Join(err, r.old.db.Close())
		}
	}()
	if r.report.Reason, err = r.diagnose(); err != nil {
		return err
	}
	if r.report.Instance, err = r.instance(); err != nil {
		return err
	}
	if r.report.Reason == "" && !force {
		return nil
	}
	tmp := r.report.Database + ".tmp"
	if err := r.fill(ctx, tmp); err != nil {
		os.Remove(tmp)
		return err
	}
	r.old.instance = r.report.Instance
	if err := r.old.keepInstance(); err != nil {
		return err
	}
	if err := r.moveAside(); err != nil {
		return err
	}
	if err := os.Rename(tmp, r.report.Database); err != nil {
		return err
	}
	r.report.Rebuilt = true
	return durable.SyncDir(durable.Local{}, filepath.Dir(tmp))
}

// diagnose says what is wrong with the database.
func (r *rebuild) diagnose() (string, error) {
	err := r.old.openReadOnly()
	if errors.Is(err, ErrDamagedDB) {
		return err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	ids, err := r.old.allIDs()
	if err != nil {
		return "", err
	}
	wrong, first := 0, ""
	for _, id := range ids {
		if misfit := r.old.misfit(id, r.folders); misfit != "" {
			wrong++
			first = cmp.Or(first, misfit)
		}
	}
	if wrong == 0 {
		return "", nil
	}
	return fmt.Sprintf("%d batches do not fit their folders, the first one: %s", wrong, first), nil
}

// allIDs returns the ids of all batches that have a record or a folder.
func (s *Store) allIDs() ([]string, error) {
	ids, err := batchFolders(s.fs, s.dir)
	if err != nil {
		return nil, err
	}
	err = s.eachRecord(func(id string, _ *Record, _ error) { ids = append(ids, id) })
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// misfit says how a batch's record does not fit its folder, "" if it does. What the folder itself lacks is no matter of
// the database.
func (s *Store) misfit(id string, folders Folders) string {
	r, err := s.Get(id)
	if _, blocked := errors.AsType[*blockedError](err); blocked {
		return "" // a rebuild found the same before
	}
	if errors.Is(err, errBadRecord) {
		return err.Error()
	}
	m, metaErr := s.Meta(id)
	switch {
	case err == nil && metaErr == nil && !r.fits(m):
		return "record of " + id + " differs from its " + metaFile
	case errors.Is(err, ErrNotFound) && metaErr == nil && (s.hasResults(id) || !s.isClaimed(m, folders)):
		return "batch " + id + " has a folder, but no record"
	}
	return ""
}

// claimDir is where a batch's file is while it is claimed.
func (s *Store) claimDir(folders Folders, id string) string {
	return layout.ClaimDir(folders.Inbox, s.instance, id)
}

// isClaimed reports whether a batch's file is claimed. When in doubt it is not.
func (s *Store) isClaimed(m *Meta, folders Folders) bool {
	if folders.Inbox == "" {
		return false
	}
	_, err := folders.FS.Lstat(filepath.Join(s.claimDir(folders, m.ID), string(m.Input.Name)))
	return err == nil
}

// isReleased reports whether it is certain that nothing of a batch's claim is left, down to its folder: a share that is
// not mounted says nothing.
func (s *Store) isReleased(id string, folders Folders) bool {
	if folders.Inbox == "" {
		return false
	}
	dir := s.claimDir(folders, id)
	_, err := folders.FS.Lstat(dir)
	_, rootErr := folders.FS.Lstat(filepath.Dir(dir))
	return errors.Is(err, fs.ErrNotExist) && rootErr == nil
}

// instance finds this stoker's id: in the database, in its file, told by the claims of batches, or else a new one.
func (r *rebuild) instance() (string, error) {
	id, err := r.old.instance, error(nil)
	if id == "" {
		id, err = readInstance(r.old.dir)
	}
	if err == nil && id == "" {
		id, err = r.instanceOfClaims()
	}
	r.report.Adopted = id != ""
	return cmp.Or(id, ulid.Make().String()), err
}

func (r *rebuild) instanceOfClaims() (string, error) {
	ids, err := batchFolders(r.old.fs, r.old.dir)
	if err != nil || r.folders.Inbox == "" {
		return "", err
	}
	root := layout.ClaimsDir(r.folders.Inbox, "")
	instances, err := readDir(r.folders.FS, root)
	for _, d := range instances {
		if _, err := ulid.ParseStrict(d.Name()); err != nil {
			continue
		}
		claims, err := readDir(r.folders.FS, filepath.Join(root, d.Name()))
		if err != nil {
			return "", err
		}
		for _, c := range claims {
			if _, ours := slices.BinarySearch(ids, c.Name()); ours {
				return d.Name(), nil
			}
		}
	}
	return "", err
}

// readDir is a folder's entries; one that is missing has none.
func readDir(fsys durable.FS, dir string) ([]fs.DirEntry, error) {
	entries, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

// fill makes the new database. It is synced once, at its end: until then nobody relies on it.
func (r *rebuild) fill(ctx context.Context, tmp string) error {
	if err := createDatabase(tmp, r.report.Instance); err != nil {
		return fmt.Errorf("create %s: %w", tmp, err)
	}
	db, err := openDatabase(tmp, false)
	if err != nil {
		return err
	}
	db.bolt.NoSync = true
	r.next = newStore(r.old.dir, r.old.fs, nil, false)
	r.next.db, r.next.instance = db, r.report.Instance
	err = r.restoreAll(ctx)
	if err == nil {
		err = db.bolt.Sync()
	}
	return errors.Join(err, db.Close())
}

func (r *rebuild) restoreAll(ctx context.Context) error {
	ids, err := batchFolders(r.old.fs, r.old.dir)
	if err != nil {
		return err
	}
	for _, id := range ids { // the oldest first, so that the newest of equal files is the one that the next one duplicates
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := r.restore(ctx, id); err != nil {
			return err
		}
	}
	return r.findClaims()
}

// restore enters a batch as it was accepted, has recovery read its journal, and enters what that tells.
func (r *rebuild) restore(ctx context.Context, id string) error {
	s := r.next
	m, err := s.Meta(id)
	if err == nil && m.ID != id {
		err = fmt.Errorf("read meta %s: it is of %q", filepath.Join(s.batchDir(id), metaFile), m.ID)
	}
	if errors.Is(err, fs.ErrNotExist) && !s.hasResults(id) {
		r.report.Skipped = append(r.report.Skipped, Skipped{Folder: s.batchDir(id), Reason: "was not accepted yet; its claimed file is copied again"})
		return nil
	}
	if err != nil {
		return r.block(id, err)
	}
	if err := s.acceptAgain(m); err != nil {
		return err
	}
	b, err := s.OpenBatch(ctx, id)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case durable.IsFull(err), IsScarce(err): // the machine's, not the batch's
		return err
	default:
		return r.block(id, err)
	}
	record, err := b.restoreRecord(r.folders)
	if err = errors.Join(err, b.Close()); err != nil {
		return err
	}
	r.report.Batches++
	r.report.States[record.State]++
	r.report.Requests += int64(record.Requests)
	r.report.Records += int64(b.progress.Records())
	return nil
}

// hasResults reports whether a folder holds more of a journal than its head.
func (s *Store) hasResults(id string) bool {
	st, err := s.fs.Lstat(filepath.Join(s.batchDir(id), journalFile))
	return err == nil && st.Size() > journal.Start
}

// block keeps a claimed file from running a second time though its batch's folder cannot be read: what the old database
// knows of the batch stays, or else a record that says why there is none.
func (r *rebuild) block(id string, cause error) error {
	kept, err := r.keep(id)
	if err != nil {
		return err
	}
	r.report.Skipped = append(r.report.Skipped, Skipped{Folder: r.next.batchDir(id), Reason: cause.Error(), Blocked: true, Kept: kept})
	if kept {
		return nil
	}
	return r.next.write(func(tx *bbolt.Tx) error {
		return putRecord(tx, &Record{ID: id, Unreadable: cause.Error()})
	})
}

// keep enters what the old database knows of a batch, and reports whether it knows it.
func (r *rebuild) keep(id string) (known bool, err error) {
	if r.old.db == nil {
		return false, nil
	}
	record, err := r.old.Get(id)
	if err != nil {
		return false, nil
	}
	return true, r.next.write(func(to *bbolt.Tx) error {
		if err := enterInput(to, record); err != nil {
			return err
		}
		return r.old.db.View(func(from *bbolt.Tx) error { return copyBatch(to, from, id) })
	})
}

// copyBatch copies all that one database knows of a batch to another.
func copyBatch(to, from *bbolt.Tx, id string) error {
	for _, name := range [][]byte{bucketBatches, bucketProgress} {
		if v := from.Bucket(name).Get([]byte(id)); v != nil {
			if err := to.Bucket(name).Put([]byte(id), v); err != nil {
				return err
			}
		}
	}
	for _, name := range [][]byte{bucketNames, bucketActive} {
		err := from.Bucket(name).ForEach(func(k, v []byte) error {
			if string(v) != id {
				return nil
			}
			return to.Bucket(name).Put(k, v)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// acceptAgain enters a batch with a checkpoint that covers nothing, so that opening it reads the whole journal.
func (s *Store) acceptAgain(m *Meta) error {
	return s.write(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketNames).Put(nameKey(m.Queue, m.Name), []byte(m.ID)); err != nil {
			return err
		}
		if err := tx.Bucket(bucketProgress).Put([]byte(m.ID), new(Progress).encode()); err != nil {
			return err
		}
		return putRecord(tx, newRecord(m))
	})
}

// restoreRecord enters what the journal and the claims tell of a batch beside its progress.
func (b *Batch) restoreRecord(folders Folders) (*Record, error) {
	object := b.publishedObject()
	b.progress.Redone = max(b.progress.Redone, object.Stoker.Redone)
	return b.store.update(b.Meta.ID, func(tx *bbolt.Tx, r *Record) error {
		b.restoreState(r, object)
		if b.published {
			r.Archived = b.store.isReleased(b.Meta.ID, folders)
		}
		for _, name := range b.names {
			if err := tx.Bucket(bucketNames).Put(nameKey(r.Queue, name), []byte(r.ID)); err != nil {
				return err
			}
		}
		if r.State == Validating || r.State == InProgress {
			if err := tx.Bucket(bucketActive).Put(inputKey(r.Queue, r.Input), []byte(r.ID)); err != nil {
				return err
			}
		}
		if err := enterInput(tx, r); err != nil {
			return err
		}
		return tx.Bucket(bucketProgress).Put([]byte(r.ID), b.progress.encode())
	})
}

func (b *Batch) restoreState(r *Record, object batchObject) {
	r.Engines = b.engines
	p := b.publication
	if p == nil || !b.published && !b.Complete() {
		return
	}
	r.State, r.FinalizingAt = Finalizing, object.FinalizingAt*1000
	if len(b.engines) == 0 {
		r.Engines = object.Stoker.Engines
		if object.InProgressAt != 0 {
			r.InProgressAt = object.InProgressAt * 1000
		}
	}
	if b.published {
		r.State, r.PublishedAs, r.Changed = p.State, p.Name, p.Changed
		r.EndedAt = 1000 * cmp.Or(object.CompletedAt, object.FailedAt, object.FinalizingAt)
	}
}

// batchObject is what NAME.batch.json tells of a batch that stands nowhere else. Times are Unix seconds.
type batchObject struct {
	InProgressAt int64 `json:"in_progress_at"`
	FinalizingAt int64 `json:"finalizing_at"`
	CompletedAt  int64 `json:"completed_at"`
	FailedAt     int64 `json:"failed_at"`
	Stoker       struct {
		Engines []Engine `json:"engines"`
		Redone  uint32   `json:"redone"`
	} `json:"stoker"`
}

// publishedObject is empty where the journal has none that can be read: only times are lost with it.
func (b *Batch) publishedObject() (o batchObject) {
	if b.publication == nil || json.Unmarshal(b.publication.Batch, &o) != nil {
		return batchObject{}
	}
	return o
}

// findClaims lists the claimed files that are no batch.
func (r *rebuild) findClaims() error {
	if r.folders.Inbox == "" {
		return nil
	}
	claims, err := readDir(r.folders.FS, filepath.Dir(r.next.claimDir(r.folders, "x")))
	if err != nil {
		return fmt.Errorf("read claims: %w", err)
	}
	for _, c := range claims {
		if _, err := r.next.Get(c.Name()); ValidID(c.Name()) && errors.Is(err, ErrNotFound) {
			r.report.Claims = append(r.report.Claims, c.Name())
		}
	}
	return nil
}

// moveAside gives the old database, if there is one, a name that says what it is. It keeps the other one until the new
// database takes it, so that a crash in between does not leave the state without any.
func (r *rebuild) moveAside() error {
	base := r.report.Database + ".damaged-" + time.Now().UTC().Format("20060102T150405Z")
	for n := 1; ; n++ {
		aside := base
		if n > 1 {
			aside += "~" + strconv.Itoa(n)
		}
		err := os.Link(r.report.Database, aside)
		switch {
		case err == nil:
			r.report.Aside = aside
			return nil
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, fs.ErrExist):
			return fmt.Errorf("move the old database aside: %w", err)
		}
	}
}
