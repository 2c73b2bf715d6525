package store

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// WindowSize is how far results may run ahead of the oldest request without one, in requests. It bounds the bitmap that
// each checkpoint writes: 8 KiB, where a key per request wrote 171 KB a commit for a batch of a million lines.
const WindowSize = 65536

// window is a set of requests: all below low, which is not in it, and those above whose bit is set.
type window struct {
	low  uint32
	bits [WindowSize / 64]uint64 // request n at bit n % WindowSize, for low <= n < low + WindowSize
}

func (w *window) has(seq uint32) bool {
	if seq < w.low {
		return true
	}
	if seq-w.low >= WindowSize {
		return false
	}
	i := seq % WindowSize
	return w.bits[i/64]&(1<<(i%64)) != 0
}

// add enters a request that is not beyond the window.
func (w *window) add(seq uint32) {
	i := seq % WindowSize
	w.bits[i/64] |= 1 << (i % 64)
	w.advance()
}

// advance moves low over what is in the set.
func (w *window) advance() {
	for {
		i := w.low % WindowSize
		if w.bits[i/64]&(1<<(i%64)) == 0 {
			return
		}
		w.bits[i/64] &^= 1 << (i % 64)
		w.low++
	}
}

// reach enters any request. Those that would fall out of the window behind it are taken for being in the set.
func (w *window) reach(seq uint32) {
	if seq < w.low {
		return
	}
	if seq-w.low >= WindowSize {
		w.raise(seq - WindowSize + 1)
	}
	w.add(seq)
}

// raise enters all requests below end.
func (w *window) raise(end uint32) {
	if end <= w.low {
		return
	}
	if end-w.low >= WindowSize {
		w.bits = [WindowSize / 64]uint64{}
		w.low = end
		return
	}
	for ; w.low < end; w.low++ {
		i := w.low % WindowSize
		w.bits[i/64] &^= 1 << (i % 64)
	}
	w.advance()
}

// count is how many requests are in the set.
func (w *window) count() uint32 {
	n := w.low
	for _, word := range w.bits {
		n += uint32(bits.OnesCount64(word))
	}
	return n
}

// extent is how many words of the bitmap, from the one of low on, go up to the last that has a bit.
func (w *window) extent() int {
	n := len(w.bits)
	first := int(w.low % WindowSize / 64)
	for n > 0 && w.bits[(first+n-1)%len(w.bits)] == 0 {
		n--
	}
	return n
}

// appendWords lays the bitmap out: how many words, and the words.
func (w *window) appendWords(b []byte) []byte {
	n, first := w.extent(), int(w.low%WindowSize/64)
	b = slices.Grow(binary.AppendUvarint(b, uint64(n)), 8*n)
	for i := range n {
		b = binary.LittleEndian.AppendUint64(b, w.bits[(first+i)%len(w.bits)])
	}
	return b
}

// readWords reads what appendWords wrote for the same low.
func (w *window) readWords(r *uvarints) {
	words, n := r.next(), len(w.bits)
	if r.failed || words > uint64(n) || uint64(len(r.b)) < words*8 {
		r.failed = true
		return
	}
	first := int(w.low % WindowSize / 64)
	for i := range int(words) {
		w.bits[(first+i)%n] = binary.LittleEndian.Uint64(r.b[i*8:])
	}
	r.b = r.b[words*8:]
}
