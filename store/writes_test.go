package store

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"stoker/store/durable"
	"stoker/test/faultfs"
)

// How long a sync takes is told while it is under way, whatever else comes back meanwhile.
func TestWriting(t *testing.T) {
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
			if op == faultfs.Sync {
				<-release
			}
			return nil
		})
		go f.Sync()
		time.Sleep(time.Minute)
		if _, err := f.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if d := s.Writing(); d != time.Minute {
			t.Errorf("a sync of a minute took %s so far", d)
		}
		close(release)
		synctest.Wait()
		if d := s.Writing(); d != 0 {
			t.Errorf("what came back has been under way for %s", d)
		}
		s.Ping()
	})
}
