package store

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"stoker/store/durable"
	"stoker/test/faultfs"
)

// How long a sync or a read takes is told while it is under way, whatever else comes back meanwhile.
func TestWaiting(t *testing.T) {
	t.Run("sync", func(t *testing.T) { testWaiting(t, faultfs.Sync, func(f durable.File) { f.Sync() }) })
	t.Run("read", func(t *testing.T) {
		testWaiting(t, faultfs.Read, func(f durable.File) { f.ReadAt(make([]byte, 1), 0) })
	})
}

func testWaiting(t *testing.T, slow faultfs.Op, do func(durable.File)) {
	synctest.Test(t, func(t *testing.T) {
		disk := faultfs.New(durable.Local{})
		s, err := OpenOn(disk, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		f, err := s.fs.OpenFile(filepath.Join(s.dir, "x"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		release := make(chan struct{})
		disk.Set(func(op faultfs.Op, _ string) error {
			if op == slow {
				<-release
			}
			return nil
		})
		go do(f)
		time.Sleep(time.Minute)
		if _, err := f.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if d := s.Waiting(); d != time.Minute {
			t.Errorf("an operation of a minute took %s so far", d)
		}
		close(release)
		synctest.Wait()
		if d := s.Waiting(); d != 0 {
			t.Errorf("what came back has been under way for %s", d)
		}
		s.Ping()
	})
}

// Whatever looks at the database may wait for the disk, by a page fault that nobody else sees.
func TestDatabaseIsWaitedFor(t *testing.T) {
	for name, use := range map[string]func(s *Store, wait func()) error{
		"read": func(s *Store, wait func()) error { return s.eachRecord(func(string, *Record, error) { wait() }) },
		"change": func(s *Store, wait func()) error {
			return s.write(func(*bbolt.Tx) error { wait(); return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := Open(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				must(t, s.write(func(tx *bbolt.Tx) error { return putRecord(tx, &Record{ID: "x"}) }))
				release, ended := make(chan struct{}), make(chan error)
				go func() { ended <- use(s, func() { <-release }) }()
				time.Sleep(time.Minute)
				if d := s.Waiting(); d != time.Minute {
					t.Errorf("an operation of a minute took %s so far", d)
				}
				close(release)
				must(t, <-ended)
				if d := s.Waiting(); d != 0 {
					t.Errorf("what came back has been under way for %s", d)
				}
			})
		})
	}
}
