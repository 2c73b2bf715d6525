package durable

import (
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// Whoever comes during a step shares the next one, and learns what came of it.
func TestGroupSharesTheNextStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[int]
		var steps [][]int
		failure, release := errors.New("the second step failed"), make(chan struct{})
		step := func(items []int) error {
			<-release
			steps = append(steps, slices.Sorted(slices.Values(items)))
			if len(steps) == 2 {
				return failure
			}
			return nil
		}
		got := map[int]error{}
		var mu sync.Mutex
		do := func(item int) {
			go func() {
				err := g.Do(item, step)
				mu.Lock()
				defer mu.Unlock()
				got[item] = err
			}()
			synctest.Wait()
		}
		do(1)
		do(2)
		do(3)
		release <- struct{}{}
		synctest.Wait() // the second step is under way
		do(4)
		release <- struct{}{}
		release <- struct{}{}
		synctest.Wait()
		do(5) // nobody is there
		release <- struct{}{}
		synctest.Wait()
		if diff := cmp.Diff([][]int{{1}, {2, 3}, {4}, {5}}, steps); diff != "" {
			t.Errorf("steps (-want +got):\n%s", diff)
		}
		for item, want := range map[int]error{1: nil, 2: failure, 3: failure, 4: nil, 5: nil} {
			if err, over := got[item]; !over || err != want {
				t.Errorf("item %d: %v, %v; want %v", item, err, over, want)
			}
		}
	})
}

// slowFS waits in each sync of a folder.
type slowFS struct {
	FS
	release chan struct{}
	mu      sync.Mutex
	synced  []string
}

func (s *slowFS) SyncDir(dir string) error {
	<-s.release
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = append(s.synced, filepath.Base(dir))
	return nil
}

func TestSharedSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowFS{release: make(chan struct{})}
		fsys := Shared(slow)
		ask := func(dir string) {
			go fsys.SyncDir(dir)
			synctest.Wait()
		}
		for range 3 {
			ask("/a") // the first sync is the first one's alone
			ask("/b") // another folder's does not wait for it
		}
		for range 4 {
			slow.release <- struct{}{}
			synctest.Wait()
		}
		slices.Sort(slow.synced)
		if diff := cmp.Diff([]string{"a", "a", "b", "b"}, slow.synced); diff != "" {
			t.Errorf("syncs (-want +got):\n%s", diff)
		}
		if left := fsys.(*sharing).syncing; len(left) > 0 {
			t.Errorf("%d folders are kept in mind", len(left))
		}
	})
}
