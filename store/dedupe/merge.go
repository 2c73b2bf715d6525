package dedupe

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// run is one sorted sequence of pairs, in memory or in a file; head is its first pair not yet told.
type run struct {
	head pair
	mem  []pair
	r    *bufio.Reader
}

// next moves head on. The error is io.EOF after the last pair.
func (r *run) next() error {
	if r.r != nil {
		return r.read()
	}
	if len(r.mem) == 0 {
		return io.EOF
	}
	r.head, r.mem = r.mem[0], r.mem[1:]
	return nil
}

func (r *run) read() error {
	buf, err := r.r.Peek(PairSize)
	switch {
	case err == io.EOF && len(buf) == 0:
		return io.EOF
	case err != nil:
		return fmt.Errorf("read spilled run: %w", err)
	}
	r.head = pair{binary.LittleEndian.Uint64(buf), binary.LittleEndian.Uint32(buf[8:])}
	_, err = r.r.Discard(PairSize)
	return err
}

// merge is a binary heap of runs by their heads. Unlike container/heap it replaces its top in one pass, without
// boxing: this is the inner loop of a sort.
type merge []*run

// advance moves the first run on and drops it at its end.
func (m *merge) advance() error {
	h := *m
	switch err := h[0].next(); err {
	case nil:
	case io.EOF:
		h[0] = h[len(h)-1]
		h = h[:len(h)-1]
		*m = h
	default:
		return err
	}
	h.down()
	return nil
}

// down lets the first run sink to its place.
func (m merge) down() {
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(m); child++ {
			if m[child].head.compare(m[least].head) < 0 {
				least = child
			}
		}
		if least == i {
			return
		}
		m[i], m[least] = m[least], m[i]
		i = least
	}
}
