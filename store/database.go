package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"stoker/store/faults"
)

// ErrDamagedDB means that the database cannot be read, or that it is missing beside batches that it must know. Rebuild
// makes it anew.
var ErrDamagedDB = errors.New("damaged")

const (
	// lockTimeout is how long opening waits for another process to let go.
	lockTimeout = 2 * time.Second
	lockRetry   = 50 * time.Millisecond
	// maxDatabase bounds the file. A batch takes about 1 KB of it once it has ended and 9 KB while it runs, so that this
	// is millions of batches: what grows beyond it is a fault, and must not fill the disk.
	maxDatabase = 8 << 30
)

// database is bbolt on a file that may be damaged: bbolt panics on what it cannot read, and a page behind the end of a
// file that was cut off is a fault of memory. Both become ErrDamagedDB. From then on nothing is asked of bbolt, because
// a panic leaves its locks as they were.
type database struct {
	path   string
	bolt   *bbolt.DB
	file   *os.File // bbolt's own
	damage atomic.Pointer[error]
	sum    uint32 // CRC-32C of all values at the start: kept, so that the compiler cannot leave out that they are read
}

// openDatabase opens a database, and reads all of it: bbolt's pages carry no checksum.
func openDatabase(path string, readOnly bool) (*database, error) {
	d := &database{path: path}
	err := d.open(readOnly)
	if err == nil {
		err = d.check()
	}
	if err != nil {
		d.Close() // as far as bbolt did not
		return nil, fmt.Errorf("open state db %s: %w", path, err)
	}
	return d, nil
}

func (d *database) open(readOnly bool) error {
	if st, err := os.Stat(d.path); err != nil {
		return err
	} else if st.Size() == 0 {
		return fmt.Errorf("%w: it is empty", ErrDamagedDB) // bbolt would begin a new one
	}
	err := d.guard(func() (err error) {
		d.bolt, err = bbolt.Open(d.path, 0o600, d.options(readOnly))
		return err
	})
	var path *fs.PathError
	var errno syscall.Errno
	switch {
	case err == nil, errors.Is(err, ErrDamagedDB), errors.As(err, &path), errors.As(err, &errno):
		return err
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrInUse
	}
	return fmt.Errorf("%w: %w", ErrDamagedDB, err)
}

func (d *database) options(readOnly bool) *bbolt.Options {
	return &bbolt.Options{
		Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, ReadOnly: readOnly, MaxSize: maxDatabase,
		NoSync:          faults.Planted("index-not-synced"),
		PreLoadFreelist: true, // else bbolt's check does it, in its goroutine
		OpenFile: func(path string, flag int, perm fs.FileMode) (f *os.File, err error) {
			d.file, err = os.OpenFile(path, flag, perm)
			return d.file, err
		},
	}
}

// check reads every page in use and proves the structure. The walk comes first: bbolt's own check runs in another
// goroutine, where a fault of memory would end the process. It does not look at values, which may be many pages.
func (d *database) check() error {
	return d.View(func(tx *bbolt.Tx) error {
		if st, err := d.file.Stat(); err != nil {
			return err
		} else if st.Size() < tx.Size() {
			return fmt.Errorf("%w: it is cut off at %d of %d bytes", ErrDamagedDB, st.Size(), tx.Size())
		}
		for _, name := range append(buckets(), bucketInputs) {
			b := tx.Bucket(name)
			switch {
			case b == nil && bytes.Equal(name, bucketInputs):
				continue // of an older version
			case b == nil:
				return fmt.Errorf("%w: %s are missing", ErrDamagedDB, name)
			}
			if err := b.ForEach(func(_, v []byte) error { d.sum = crc32.Update(d.sum, crcTable, v); return nil }); err != nil {
				return err
			}
		}
		var first error
		for err := range tx.Check() { // to its end, else its goroutine stays
			if first == nil {
				first = fmt.Errorf("%w: %w", ErrDamagedDB, err)
			}
		}
		return first
	})
}

// View reads in one transaction.
func (d *database) View(read func(*bbolt.Tx) error) error {
	return d.guard(func() error { return d.bolt.View(read) })
}

// Update writes in one durable transaction.
func (d *database) Update(write func(*bbolt.Tx) error) error {
	return d.guard(func() error { return d.bolt.Update(write) })
}

func (d *database) guard(op func() error) (err error) {
	if damage := d.damage.Load(); damage != nil {
		return *damage
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamagedDB, p)
			d.damage.Store(&err)
		}
	}()
	return op()
}

// Path is the database's file.
func (d *database) Path() string { return d.path }

// Close lets go of the file, also of one that bbolt panicked on.
func (d *database) Close() error {
	if d.bolt != nil && d.damage.Load() == nil {
		return d.bolt.Close()
	}
	if d.file == nil {
		return nil
	}
	// bbolt's mapping of the file stays, and would keep the lock.
	return errors.Join(unix.Flock(int(d.file.Fd()), unix.LOCK_UN), d.file.Close())
}

// lockExisting is lockDir for what is to be done with a state that must be there.
func lockExisting(what, dir string, alone bool) (*os.File, error) {
	lock, err := lockDir(dir, alone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s state %s: %w", what, dir, ErrNoState)
	}
	if err != nil {
		return nil, fmt.Errorf("%s state: %w", what, err)
	}
	return lock, nil
}

// lockDir takes the state folder for a process that writes alone, or with others that only read. The database's own lock
// would not do: it is gone with the file.
func lockDir(dir string, alone bool) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX
	}
	for end := time.Now().Add(lockTimeout); ; time.Sleep(lockRetry) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = ErrInUse
			}
			return nil, fmt.Errorf("lock %s: %w", filepath.Clean(dir), err)
		}
	}
}
