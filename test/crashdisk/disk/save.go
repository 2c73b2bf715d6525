package disk

import (
	"encoding/gob"
	"fmt"
	"os"
)

// saved is a rack in a file, so that a cut can be made again later.
type saved struct {
	Sector   int
	Sizes    []int64
	Pristine []map[int64]*page // of each disk
	Log      []savedEvent
}

type savedEvent struct {
	Disk int
	At   int64
	Data []byte
}

// save writes a settled rack with its log.
func (r *rack) save(path string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := saved{Sector: r.sector, Sizes: r.sizes}
	for _, d := range r.disks {
		if d.below == nil {
			return fmt.Errorf("save disks: they are not settled")
		}
		s.Pristine = append(s.Pristine, d.below.pages)
	}
	for _, e := range r.log {
		s.Log = append(s.Log, savedEvent{e.disk, e.at, e.data})
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := gob.NewEncoder(f).Encode(s); err != nil {
		return fmt.Errorf("save disks: %w", err)
	}
	return f.Close()
}

func loadRack(path string) (*rack, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var s saved
	if err := gob.NewDecoder(f).Decode(&s); err != nil {
		return nil, fmt.Errorf("load disks: %w", err)
	}
	r := &rack{sector: s.Sector, sizes: s.Sizes}
	for _, pages := range s.Pristine {
		r.disks = append(r.disks, newLayer(&layer{pages: pages}))
	}
	for _, e := range s.Log {
		r.log = append(r.log, event{e.Disk, e.At, e.Data})
	}
	return r, nil
}
