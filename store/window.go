package store

import (
	"encoding/binary"
	"math/bits"
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

// words returns the bitmap from the word of low on, cut behind the last word with a bit.
func (w *window) words() []uint64 {
	n := len(w.bits)
	first := int(w.low % WindowSize / 64)
	words := make([]uint64, 0, 16)
	last := 0
	for i := range n {
		word := w.bits[(first+i)%n]
		words = append(words, word)
		if word != 0 {
			last = i + 1
		}
	}
	return words[:last]
}

// appendWords lays the bitmap out: how many words, and the words.
func (w *window) appendWords(b []byte) []byte {
	words := w.words()
	b = binary.AppendUvarint(b, uint64(len(words)))
	for _, word := range words {
		b = binary.LittleEndian.AppendUint64(b, word)
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
