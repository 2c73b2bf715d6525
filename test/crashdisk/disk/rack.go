package disk

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
)

// event is a write to one disk of a rack, or, without data, a flush.
type event struct {
	disk int
	at   int64
	data []byte
}

// rack is the disks that lose power together. Their writes and flushes stand in one log, in the order in which they
// arrived, so that a cut of the power is a place in it.
type rack struct {
	mu      sync.Mutex
	sector  int // bytes that reach a disk as a whole or not at all
	sizes   []int64
	disks   []*layer
	log     []event
	failing bool // every write and flush is refused

	// Of a rack that shows what a cut of another one leaves:
	of       *rack
	bases    []*layer // what was flushed before the cut
	applied  []int    // events of the other one's log that were before that flush, for each disk
	restarts []*layer // bases with what else reached the disks
}

func newRack(sector int, sizes []int64) *rack {
	r := &rack{sector: sector, sizes: sizes}
	for range sizes {
		r.disks = append(r.disks, newLayer(nil))
	}
	return r
}

func (r *rack) read(disk int, dst []byte, at int64) syscall.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disks[disk].read(dst, at)
	return 0
}

func (r *rack) write(disk int, data []byte, at int64) syscall.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.failing:
		return syscall.EIO
	case at+int64(len(data)) > r.sizes[disk]:
		return syscall.ENOSPC
	}
	r.log = append(r.log, event{disk, at, append([]byte{}, data...)})
	r.disks[disk].write(data, at)
	return 0
}

func (r *rack) flush(disk int) syscall.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failing {
		return syscall.EIO
	}
	r.log = append(r.log, event{disk: disk})
	return 0
}

// settle makes what the disks hold their state from before any cut.
func (r *rack) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = nil
	for i, d := range r.disks {
		r.disks[i] = newLayer(d)
	}
}

func (r *rack) length() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.log)
}

func (r *rack) fail(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failing = on
}

// fork returns a rack for the cuts of r, whose log must have come to its end.
func (r *rack) fork() *rack {
	f := &rack{sector: r.sector, sizes: r.sizes, of: r, disks: make([]*layer, len(r.sizes)), restarts: make([]*layer, len(r.sizes)),
		applied: make([]int, len(r.sizes))}
	for _, d := range r.disks {
		f.bases = append(f.bases, newLayer(d.below))
	}
	return f
}

// cut makes a fork's disks what a cut behind the log's first n events leaves: all that was flushed, and of the rest what
// chance, drawn from a seed, let through. Cuts must come in order, so that what was flushed is applied only once.
func (r *rack) cut(n int, seed uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil || n > len(r.of.log) {
		return fmt.Errorf("cut at %d: not within a log", n)
	}
	log := r.of.log[:n]
	flushed := lastFlushes(log, len(r.sizes))
	for disk, end := range flushed {
		if end < r.applied[disk] {
			return fmt.Errorf("cut at %d: a later one was made before", n)
		}
		for _, e := range log[r.applied[disk]:end] {
			if e.disk == disk {
				r.bases[disk].write(e.data, e.at)
			}
		}
		r.applied[disk] = end
		r.restarts[disk] = newLayer(r.bases[disk])
	}
	r.replay(log, flushed, seed)
	r.restart()
	return nil
}

// cutAgain makes a fork's disks what a second cut leaves, behind the first n writes and flushes since the first one.
func (r *rack) cutAgain(n int, seed uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil || n > len(r.log) {
		return fmt.Errorf("cut again at %d: not within a log", n)
	}
	log := r.log[:n]
	flushed := lastFlushes(log, len(r.sizes))
	for i, e := range log {
		if i < flushed[e.disk] {
			r.restarts[e.disk].write(e.data, e.at)
		}
	}
	r.replay(log, flushed, seed)
	r.restart()
	return nil
}

// restart begins a new life of the disks.
func (r *rack) restart() {
	r.log, r.failing = nil, false
	for i, d := range r.restarts {
		r.disks[i] = newLayer(d)
	}
}

// lastFlushes returns for each disk how many events of the log were before its last flush.
func lastFlushes(log []event, disks int) []int {
	last := make([]int, disks)
	for i := len(log) - 1; i >= 0; i-- {
		if e := log[i]; e.data == nil && last[e.disk] == 0 {
			last[e.disk] = i
		}
	}
	return last
}

// replay applies the writes that no flush of their disk came after: whole, in part or not at all.
func (r *rack) replay(log []event, flushed []int, seed uint64) {
	chance := rand.New(rand.NewPCG(seed, uint64(len(log))))
	for i := slices.Min(flushed); i < len(log); i++ {
		e := log[i]
		if i >= flushed[e.disk] && len(e.data) > 0 {
			r.restarts[e.disk].write(e.data[:r.survives(chance, e)], e.at)
		}
	}
}

// survives draws how much of a write that was not flushed reaches the disk.
func (r *rack) survives(chance *rand.Rand, e event) int {
	const kept, torn = .45, .15 // the rest is lost
	size := len(e.data)
	switch p := chance.Float64(); {
	case p < kept:
		return size
	case p < kept+torn && !isSuperblock(e.at):
		return chance.IntN((size+r.sector-1)/r.sector) * r.sector
	default:
		return 0
	}
}

// isSuperblock reports whether a write is where ext4 (its second KiB) or btrfs (at 64 KiB) has what the rest is found by.
// They rely on it that the disk writes that as a whole, though it is more than a sector.
func isSuperblock(at int64) bool { return at == 0 || at == 64<<10 }
