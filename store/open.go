package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"stoker/store/durable"
	"stoker/store/faults"
)

const dbName = "stoker.db"

// lockTimeout is how long Open waits for another process to let go.
const lockTimeout = 2 * time.Second

// Open opens or creates the state folder for this process alone. The error is ErrInUse if another process has it.
func Open(dir string) (*Store, error) { return OpenOn(durable.Local{}, dir) }

// OpenOn is Open with the batch folders on another filesystem. The database, which bbolt maps into memory, stays on the
// machine's own.
func OpenOn(fsys durable.FS, dir string) (*Store, error) {
	if err := durable.MkdirAll(durable.Local{}, dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state %s: %w", dir, err)
	}
	if err := durable.MkdirAll(fsys, filepath.Join(dir, "batches"), 0o700); err != nil {
		return nil, fmt.Errorf("open state %s: %w", dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state %s: %w", dir, err)
	}
	path := filepath.Join(dir, dbName)
	if err := createDB(path); err != nil {
		return nil, err
	}
	db, err := openDB(path, false)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, fs: fsys, db: db, reserved: map[string]struct{}{}}
	if err = s.loadInstance(); err == nil {
		err = s.sweep()
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return s, nil
}

// sweep removes what a process that died left unfinished: databases under a temporary name, and folders of batches
// that were not accepted. A folder with meta.json is whole, and may be a batch that the database has lost: it stays.
func (s *Store) sweep() error {
	if err := s.sweepDatabases(); err != nil {
		return fmt.Errorf("sweep state: %w", err)
	}
	dirs, err := s.fs.ReadDir(filepath.Join(s.dir, "batches"))
	if err != nil {
		return fmt.Errorf("sweep state: %w", err)
	}
	for _, d := range dirs {
		if err := s.sweepBatch(d.Name()); err != nil {
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
		if strings.HasPrefix(e.Name(), dbName+".") && strings.HasSuffix(e.Name(), ".tmp") {
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) sweepBatch(id string) error {
	if !ValidID(id) {
		return nil
	}
	if _, err := s.Get(id); !errors.Is(err, ErrNotFound) {
		return err
	}
	if _, err := s.fs.Lstat(filepath.Join(s.batchDir(id), metaFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.fs.RemoveAll(s.batchDir(id))
}

// OpenReadOnly opens the state for a command that only looks, without a daemon. The error is ErrInUse while a daemon
// runs and ErrNoState if there is none yet.
func OpenReadOnly(dir string) (*Store, error) { return OpenReadOnlyOn(durable.Local{}, dir) }

// OpenReadOnlyOn is OpenReadOnly with the batch folders on another filesystem.
func OpenReadOnlyOn(fsys durable.FS, dir string) (*Store, error) {
	path := filepath.Join(dir, dbName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open state %s: %w", dir, ErrNoState)
	}
	db, err := openDB(path, true)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, fs: fsys, db: db}
	if err := s.loadInstance(); err != nil {
		db.Close()
		return nil, err
	}
	return s, nil
}

func openDB(path string, readOnly bool) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly, NoSync: faults.Planted("index-not-synced"),
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open state db %s: %w", path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("open state db %s: %w", path, err)
	}
	return db, nil
}

// createDB makes the database under a temporary name: bbolt's own creation is not safe against a crash
// (etcd-io/etcd#16596).
func createDB(path string) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	os.Remove(tmp) // of a process that died with the same number, as it is usual in containers
	defer os.Remove(tmp)
	db, err := openDB(tmp, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketBatches, bucketProgress, bucketNames, bucketActive, bucketInfo} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketInfo).Put(keyInstance, []byte(ulid.Make().String()))
	})
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = durable.Local{}.RenameNew(tmp, path)
	}
	if err != nil {
		if _, statErr := os.Stat(path); statErr == nil { // another process was faster; whoever gets the lock goes on
			return nil
		}
		return fmt.Errorf("create state db %s: %w", path, err)
	}
	return durable.SyncDir(durable.Local{}, filepath.Dir(path))
}

func (s *Store) loadInstance() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		info := tx.Bucket(bucketInfo)
		if info == nil || info.Get(keyInstance) == nil {
			return fmt.Errorf("open state db %s: not a state of stoker", s.db.Path())
		}
		s.instance = string(info.Get(keyInstance))
		return nil
	})
}
