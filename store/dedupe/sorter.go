package dedupe

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"slices"
)

// pair is sorted by key, then by val.
type pair struct {
	key uint64
	val uint32
}

func (p pair) compare(q pair) int {
	return cmp.Or(cmp.Compare(p.key, q.key), cmp.Compare(p.val, q.val))
}

// PairSize is how many bytes of a file a pair takes up.
const PairSize = 12

const (
	mergeMemory = 16 << 20 // bytes of read buffers for all runs together
	minBuffer   = 4 << 10  // bytes of one run's read buffer
	maxBuffer   = 256 << 10
)

// sorter sorts pairs: in memory while they fit into one chunk, else as sorted runs in a file that are merged.
type sorter struct {
	open  func() (File, error)
	chunk int
	mem   []pair
	file  File    // nil until the first run is spilled
	runs  []int64 // where each run ends in the file
}

func newSorter(open func() (File, error), chunk int) *sorter {
	return &sorter{open: open, chunk: chunk}
}

func (s *sorter) add(p pair) error {
	if len(s.mem) == s.chunk {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.mem = append(s.mem, p)
	return nil
}

// spill appends what is in memory to the file as one more run.
func (s *sorter) spill() error {
	if s.file == nil {
		f, err := s.open()
		if err != nil {
			return fmt.Errorf("spill: %w", err)
		}
		s.file = f
	}
	slices.SortFunc(s.mem, pair.compare)
	w := bufio.NewWriterSize(s.file, maxBuffer)
	var buf [PairSize]byte
	for _, p := range s.mem {
		binary.LittleEndian.PutUint64(buf[:], p.key)
		binary.LittleEndian.PutUint32(buf[8:], p.val)
		if _, err := w.Write(buf[:]); err != nil {
			return fmt.Errorf("spill: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("spill: %w", err)
	}
	s.runs = append(s.runs, s.end()+int64(len(s.mem))*PairSize)
	s.mem = s.mem[:0]
	return nil
}

func (s *sorter) end() int64 {
	if len(s.runs) == 0 {
		return 0
	}
	return s.runs[len(s.runs)-1]
}

// sorted tells all pairs in order. It ends at the first error.
func (s *sorter) sorted() iter.Seq2[pair, error] {
	slices.SortFunc(s.mem, pair.compare)
	return func(yield func(pair, error) bool) {
		m, err := s.merge()
		for err == nil && len(m) > 0 {
			if !yield(m[0].head, nil) {
				return
			}
			err = m.advance()
		}
		if err != nil {
			yield(pair{}, err)
		}
	}
}

func (s *sorter) close() error {
	s.mem = nil
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// merge opens the runs of the file, and what is in memory as one more.
func (s *sorter) merge() (merge, error) {
	size := min(maxBuffer, max(minBuffer, mergeMemory/(len(s.runs)+1)))
	runs := []*run{{mem: s.mem}}
	var start int64
	for _, end := range s.runs {
		section := io.NewSectionReader(s.file, start, end-start)
		runs = append(runs, &run{r: bufio.NewReaderSize(section, size)})
		start = end
	}
	var m merge
	for _, r := range runs {
		switch err := r.next(); err {
		case nil:
			m = append(m, r)
		case io.EOF:
		default:
			return nil, err
		}
	}
	slices.SortFunc(m, func(a, b *run) int { return a.head.compare(b.head) }) // a sorted slice is a heap
	return m, nil
}
