package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"stoker/store/durable"
)

const (
	dbName     = "stoker.db"
	batchesDir = "batches"
)

// Open opens or creates the state folder for this process alone. The error is ErrInUse if another process has it, and
// ErrDamagedDB if the database must be made anew.
func Open(dir string) (*Store, error) { return OpenOn(durable.Local{}, dir) }

// OpenOn is Open with the batch folders on another filesystem. The database, which bbolt maps into memory, stays on the
// machine's own.
func OpenOn(fsys durable.FS, dir string) (*Store, error) {
	if err := makeState(fsys, dir); err != nil {
		return nil, fmt.Errorf("open state %s: %w", dir, err)
	}
	lock, err := lockDir(dir, true)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	s := newStore(dir, fsys, lock, false)
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// newStore is a store without its database yet.
func newStore(dir string, fsys durable.FS, lock *os.File, readOnly bool) *Store {
	h := newHealth()
	if !readOnly {
		fsys = durable.Shared(h.vital(fsys))
	}
	return &Store{dir: dir, fs: fsys, lock: lock, readOnly: readOnly, health: h, space: durable.SpaceOf, reserved: map[string]struct{}{}}
}

func makeState(fsys durable.FS, dir string) error {
	if err := durable.MkdirAll(durable.Local{}, dir, 0o700); err != nil {
		return readOnly(err)
	}
	if err := probe(dir); err != nil {
		return err
	}
	if err := durable.MkdirAll(fsys, filepath.Join(dir, batchesDir), 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// open opens the database, after it has made the first one.
func (s *Store) open() error {
	path := filepath.Join(s.dir, dbName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := refuseLost(s.fs, s.dir); err != nil {
			return err
		}
		if err := s.createFirst(path); err != nil {
			return err
		}
	}
	var err error
	if s.db, err = openDatabase(path, false); err != nil {
		return err
	}
	if err := s.loadInstance(); err != nil {
		return err
	}
	if err := s.keepInstance(); err != nil {
		return err
	}
	if err := s.indexInputs(); err != nil && !durable.IsFull(err) { // without room the first admission does it
		return err
	}
	return s.sweep()
}

// refuseLost tells a database that is lost from one that never was: no batch is older than its database.
func refuseLost(fsys durable.FS, dir string) error {
	ids, err := batchFolders(fsys, dir)
	if err != nil || len(ids) == 0 {
		return err
	}
	return fmt.Errorf("open state db %s: %w: it is missing, but there are %d batches beside it", filepath.Join(dir, dbName), ErrDamagedDB, len(ids))
}

// batchFolders returns the ids of the folders of batches, oldest first.
func batchFolders(fsys durable.FS, dir string) ([]string, error) {
	entries, err := fsys.ReadDir(filepath.Join(dir, batchesDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if ValidID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// ErrReadOnly means that nothing can be written to the state folder.
var ErrReadOnly = errors.New("the filesystem is read-only")

// probePrefix begins the name that durable.Scratch makes, for the moment that its file has one.
const probePrefix = "stoker-"

// probe finds out whether the state can be written to, before anything relies on it.
func probe(dir string) error {
	f, err := durable.Local{}.Scratch(dir)
	switch {
	case durable.IsFull(err):
		return nil // that is waited for
	case err != nil:
		return readOnly(err)
	}
	return f.Close()
}

// readOnly says in words what EROFS means.
func readOnly(err error) error {
	if errors.Is(err, unix.EROFS) {
		return ErrReadOnly
	}
	return err
}

// sweep removes what a process that died left unfinished: databases under a temporary name, and folders of batches
// that were not accepted. A folder with meta.json is whole, and may be a batch that the database has lost: it stays.
func (s *Store) sweep() error {
	if err := s.sweepDatabases(); err != nil {
		return fmt.Errorf("sweep state: %w", err)
	}
	ids, err := batchFolders(s.fs, s.dir)
	if err != nil {
		return fmt.Errorf("sweep state: %w", err)
	}
	for _, id := range ids {
		if err := s.sweepBatch(id); err != nil {
			return fmt.Errorf("sweep state: %w", err)
		}
	}
	return nil
}

func (s *Store) sweepDatabases() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isStateTemp(e.Name()) {
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// isStateTemp tells the temporary files of the state folder itself: databases and the instance, half made, and what a
// probe made.
func isStateTemp(name string) bool {
	ours := strings.HasPrefix(name, dbName+".") || strings.HasPrefix(name, "."+instanceFile) || strings.HasPrefix(name, probePrefix)
	return ours && strings.HasSuffix(name, ".tmp")
}

// sweepBatch removes the folder of a batch that was not accepted. A record that cannot be read is one, too.
func (s *Store) sweepBatch(id string) error {
	if _, err := s.Get(id); !errors.Is(err, ErrNotFound) {
		return ignoreBadRecord(err)
	}
	if _, err := s.fs.Lstat(filepath.Join(s.batchDir(id), metaFile)); !errors.Is(err, fs.ErrNotExist) || s.hasResults(id) {
		return err
	}
	return s.fs.RemoveAll(s.batchDir(id))
}

// OpenReadOnly opens the state for a command that only looks, without a daemon. The error is ErrInUse while a daemon
// runs, ErrNoState if there is none yet and ErrDamagedDB if the database must be made anew.
func OpenReadOnly(dir string) (*Store, error) { return OpenReadOnlyOn(durable.Local{}, dir) }

// OpenReadOnlyOn is OpenReadOnly with the batch folders on another filesystem.
func OpenReadOnlyOn(fsys durable.FS, dir string) (*Store, error) {
	lock, err := lockExisting("open", dir, false)
	if err != nil {
		return nil, err
	}
	s := newStore(dir, fsys, lock, true)
	if err := s.openReadOnly(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) openReadOnly() error {
	path := filepath.Join(s.dir, dbName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := refuseLost(s.fs, s.dir); err != nil {
			return err
		}
		return fmt.Errorf("open state %s: %w", s.dir, ErrNoState)
	}
	var err error
	if s.db, err = openDatabase(path, true); err != nil {
		return err
	}
	return s.loadInstance()
}

// createFirst makes the first database of a state, or that of one which has lost it before its first batch.
func (s *Store) createFirst(path string) error {
	instance, err := readInstance(s.dir)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	err = createDatabase(tmp, cmp.Or(instance, ulid.Make().String()))
	if err == nil {
		err = durable.Move(durable.Local{}, tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("create state db %s: %w", path, err)
	}
	return nil
}

// createDatabase makes an empty database. It is not under its own name yet, because bbolt's creation is not safe against
// a crash (etcd-io/etcd#16596).
func createDatabase(tmp, instance string) error {
	os.Remove(tmp) // of a process that died
	db, err := bbolt.Open(tmp, 0o600, &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range append(buckets(), bucketInputs) {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketInfo).Put(keyInstance, []byte(instance))
	})
	return errors.Join(err, db.Close())
}
