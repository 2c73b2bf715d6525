// Package dedupe finds repeated keys among millions in bounded memory: an external sort of (hash, sequence number)
// pairs. Equal hashes only nominate; the caller confirms every match on the keys themselves.
package dedupe

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"io"
)

// DefaultChunk is how many pairs are held in memory: 16 MB.
const DefaultChunk = 1 << 20

// Finder collects the hashes of keys in the order of their sequence numbers and then tells which keys are repeated. It
// belongs to one goroutine and must be closed.
type Finder struct {
	seed   maphash.Seed
	pairs  *sorter
	repeat *sorter // found duplicates, to be told in the order of their numbers
}

// File is where pairs are kept that do not fit into memory. It should vanish with the process.
type File interface {
	io.ReaderAt
	io.Writer
	io.Closer
}

// New returns a Finder that holds chunk pairs in memory (0: DefaultChunk). More are kept in files that spill makes, 12
// bytes a pair.
func New(spill func() (File, error), chunk int) *Finder {
	if chunk <= 0 {
		chunk = DefaultChunk
	}
	return &Finder{seed: maphash.MakeSeed(), pairs: newSorter(spill, chunk), repeat: newSorter(spill, chunk)}
}

// Hash hashes a key. The seed is this Finder's own and random, so that no input can be made to collide.
func (f *Finder) Hash(key string) uint64 { return maphash.String(f.seed, key) }

// Add collects the hash of the key with that number. Numbers may come in any order but only once.
func (f *Finder) Add(hash uint64, seq uint32) error {
	if err := f.pairs.add(pair{hash, seq}); err != nil {
		return fmt.Errorf("collect ids: %w", err)
	}
	return nil
}

// Duplicates calls each for every repeated key, in the order of their numbers; first is the earliest key that it equals.
// same reports whether the keys with these two numbers are equal; it is asked only about equal hashes, in no particular
// order. An error of either ends the search and is returned. The Finder is used up after it.
func (f *Finder) Duplicates(same func(a, b uint32) (bool, error), each func(seq, first uint32) error) error {
	if err := f.confirm(same); err != nil {
		return fmt.Errorf("find repeated ids: %w", err)
	}
	for p, err := range f.repeat.sorted() {
		if err != nil {
			return fmt.Errorf("find repeated ids: %w", err)
		}
		if err := each(uint32(p.key), p.val); err != nil {
			return err
		}
	}
	return nil
}

// confirm goes through the pairs by hash and keeps those whose key is repeated.
func (f *Finder) confirm(same func(a, b uint32) (bool, error)) error {
	var (
		hash   uint64
		firsts []uint32 // numbers of the different keys with this hash: nearly always one
	)
	for p, err := range f.pairs.sorted() {
		if err != nil {
			return err
		}
		if p.key != hash {
			hash, firsts = p.key, firsts[:0]
		}
		first, found, err := match(firsts, p.val, same)
		if err != nil {
			return err
		}
		if !found {
			firsts = append(firsts, p.val)
			continue
		}
		if err := f.repeat.add(pair{uint64(p.val), first}); err != nil {
			return err
		}
	}
	return f.pairs.close() // the memory is needed for what comes next
}

// match returns that one of firsts whose key equals that of seq.
func match(firsts []uint32, seq uint32, same func(a, b uint32) (bool, error)) (first uint32, found bool, err error) {
	for _, first := range firsts {
		if equal, err := same(first, seq); err != nil || equal {
			return first, equal, err
		}
	}
	return 0, false, nil
}

// Close frees the temporary files.
func (f *Finder) Close() error {
	return cmp.Or(f.pairs.close(), f.repeat.close())
}
