package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// WindowSize is how far results may run ahead of the oldest request without one, in requests. It bounds the bitmap that
// each checkpoint writes: 8 KiB, where a key per request wrote 171 KB a commit for a batch of a million lines.
const WindowSize = 65536

// Progress is how far a batch has come: one value in bbolt, written by each checkpoint.
type Progress struct {
	Offset           int64  // journal bytes that this checkpoint covers
	HandedOut        uint32 // requests below this were given to the engine at least once
	Completed        uint32
	Failed           uint32
	Redone           uint32 // requests that a crash made run again
	PromptTokens     uint64
	CompletionTokens uint64

	done window
	redo []uint32 // requests below the window whose record was found damaged; sorted
}

// window says which requests have their record: all below low, and those whose bit is set.
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

func (w *window) add(seq uint32) {
	i := seq % WindowSize
	w.bits[i/64] |= 1 << (i % 64)
	for w.bits[w.low%WindowSize/64]&(1<<(w.low%64)) != 0 {
		w.bits[w.low%WindowSize/64] &^= 1 << (w.low % 64)
		w.low++
	}
}

// Has reports whether the request has its record.
func (p *Progress) Has(seq uint32) bool {
	if _, damaged := slices.BinarySearch(p.redo, seq); damaged {
		return false
	}
	return p.done.has(seq)
}

// Records is how many requests have their record.
func (p *Progress) Records() uint32 { return p.Completed + p.Failed }

// Watermark is the lowest request without a record.
func (p *Progress) Watermark() uint32 {
	if len(p.redo) > 0 {
		return p.redo[0]
	}
	return p.done.low
}

// count enters a result frame, and reports false for a second record of the same request, which does not count.
func (p *Progress) count(f Frame) (bool, error) {
	if p.Has(f.Seq) {
		return false, nil
	}
	if i, damaged := slices.BinarySearch(p.redo, f.Seq); damaged {
		p.redo = slices.Delete(p.redo, i, i+1)
	} else if f.Seq-p.done.low >= WindowSize {
		return false, fmt.Errorf("result of request %d is beyond the window at %d", f.Seq, p.done.low)
	} else {
		p.done.add(f.Seq)
	}
	p.tally(f)
	return true, nil
}

// tally adds a result to the numbers.
func (p *Progress) tally(f Frame) {
	if f.Kind == KindOutput {
		p.Completed++
	} else {
		p.Failed++
	}
	p.PromptTokens += uint64(f.PromptTokens)
	p.CompletionTokens += uint64(f.CompletionTokens)
	p.HandedOut = max(p.HandedOut, f.Seq+1)
}

// clearTally sets to zero what tally adds up.
func (p *Progress) clearTally() {
	p.Completed, p.Failed, p.PromptTokens, p.CompletionTokens = 0, 0, 0, 0
}

// setRecords enters which of the requests below end have their record. They may be any: those that are missing before
// the window are to run again.
func (p *Progress) setRecords(has func(seq uint32) bool, end uint32) {
	p.done, p.redo = window{}, nil
	if end > WindowSize {
		p.done.low = end - WindowSize
	}
	for seq := range p.done.low {
		if !has(seq) {
			p.redo = append(p.redo, seq)
		}
	}
	for seq := p.done.low; seq < end; seq++ {
		if has(seq) {
			p.done.add(seq)
		}
	}
}

const progressVersion = 1

var errProgress = errors.New("damaged progress record")

// encode lays the progress out for bbolt, whose data pages carry no checksum: version, numbers, redo list, the bitmap
// up to its last set bit, CRC-32C.
func (p *Progress) encode() []byte {
	b := make([]byte, 0, 128)
	b = append(b, progressVersion)
	b = binary.AppendUvarint(b, uint64(p.Offset))
	for _, n := range []uint32{p.HandedOut, p.Completed, p.Failed, p.Redone} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendUvarint(b, p.PromptTokens)
	b = binary.AppendUvarint(b, p.CompletionTokens)
	b = binary.AppendUvarint(b, uint64(len(p.redo)))
	for _, n := range p.redo {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendUvarint(b, uint64(p.done.low))
	words := p.windowWords()
	b = binary.AppendUvarint(b, uint64(len(words)))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
}

// windowWords returns the bitmap from the word of low on, cut behind the last word with a bit.
func (p *Progress) windowWords() []uint64 {
	n := len(p.done.bits)
	first := int(p.done.low % WindowSize / 64)
	words := make([]uint64, 0, 16)
	last := 0
	for i := range n {
		w := p.done.bits[(first+i)%n]
		words = append(words, w)
		if w != 0 {
			last = i + 1
		}
	}
	return words[:last]
}

func decodeProgress(b []byte) (*Progress, error) {
	if len(b) < 5 || b[0] != progressVersion {
		return nil, errProgress
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, crcTable) != sum {
		return nil, errProgress
	}
	r := uvarints{b: body[1:]}
	p := &Progress{
		Offset: int64(r.next()), HandedOut: uint32(r.next()), Completed: uint32(r.next()), Failed: uint32(r.next()),
		Redone: uint32(r.next()), PromptTokens: r.next(), CompletionTokens: r.next(),
	}
	redo := r.next()
	if redo > uint64(len(r.b)) { // each takes a byte at least
		return nil, errProgress
	}
	for range redo {
		p.redo = append(p.redo, uint32(r.next()))
	}
	p.done.low = uint32(r.next())
	words, n := r.next(), len(p.done.bits)
	if r.failed || words > uint64(n) || uint64(len(r.b)) != words*8 {
		return nil, errProgress
	}
	first := int(p.done.low % WindowSize / 64)
	for i := range int(words) {
		p.done.bits[(first+i)%n] = binary.LittleEndian.Uint64(r.b[i*8:])
	}
	return p, nil
}

// uvarints reads numbers one after another; failed is set once one is not there.
type uvarints struct {
	b      []byte
	failed bool
}

func (r *uvarints) next() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}
