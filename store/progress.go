package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"stoker/store/journal"
)

// Progress is how far a batch has come: one value in bbolt, written by each checkpoint.
type Progress struct {
	Offset           int64 // journal bytes that this checkpoint covers
	Completed        uint32
	Failed           uint32
	Redone           uint32 // requests that a crash made run again
	PromptTokens     uint64
	CompletionTokens uint64

	done   window   // requests that have their record
	handed window   // requests that were given to the engine at least once, or needed none
	redo   []uint32 // requests below the window whose record was found damaged; sorted
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

// count enters a result frame, and reports false for a second record of the same request, which does not count.
func (p *Progress) count(f journal.Frame) (bool, error) {
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
	p.handed.reach(f.Seq)
	p.tally(f)
	return true, nil
}

// tally adds a result to the numbers.
func (p *Progress) tally(f journal.Frame) {
	if f.Kind == journal.KindOutput {
		p.Completed++
	} else {
		p.Failed++
	}
	p.PromptTokens += uint64(f.PromptTokens)
	p.CompletionTokens += uint64(f.CompletionTokens)
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

const (
	progressVersion = 1
	// progressApart is the version in which the bitmap of requests that were given to the engine follows. It is written only
	// where these are not simply all up to one. An older stoker that finds it reads the journal instead, and forgets how many ran
	// again.
	progressApart = 2
)

var errProgress = errors.New("damaged progress record")

// encode lays the progress out for bbolt, whose data pages carry no checksum: version, numbers, redo list, the bitmap
// up to its last set bit, CRC-32C.
func (p *Progress) encode() []byte {
	b := make([]byte, 0, 128)
	apart := p.handed.extent() > 0
	if apart {
		b = append(b, progressApart)
	} else {
		b = append(b, progressVersion)
	}
	b = binary.AppendUvarint(b, uint64(p.Offset))
	for _, n := range []uint32{p.handed.low, p.Completed, p.Failed, p.Redone} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendUvarint(b, p.PromptTokens)
	b = binary.AppendUvarint(b, p.CompletionTokens)
	b = binary.AppendUvarint(b, uint64(len(p.redo)))
	for _, n := range p.redo {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendUvarint(b, uint64(p.done.low))
	b = p.done.appendWords(b)
	if apart {
		b = p.handed.appendWords(b)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
}

func decodeProgress(b []byte) (*Progress, error) {
	if len(b) < 5 || b[0] != progressVersion && b[0] != progressApart {
		return nil, errProgress
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, crcTable) != sum {
		return nil, errProgress
	}
	r := uvarints{b: body[1:]}
	p := &Progress{Offset: int64(r.next())}
	p.handed.low = uint32(r.next())
	p.Completed, p.Failed, p.Redone = uint32(r.next()), uint32(r.next()), uint32(r.next())
	p.PromptTokens, p.CompletionTokens = r.next(), r.next()
	redo := r.next()
	if redo > uint64(len(r.b)) { // each takes a byte at least
		return nil, errProgress
	}
	for range redo {
		p.redo = append(p.redo, uint32(r.next()))
	}
	p.done.low = uint32(r.next())
	p.done.readWords(&r)
	if b[0] == progressApart {
		p.handed.readWords(&r)
	}
	if r.failed || len(r.b) > 0 {
		return nil, errProgress
	}
	return p, nil
}

// encodeSeqs lays requests out for a journal frame.
func encodeSeqs(seqs []uint32) (b []byte) {
	for _, seq := range seqs {
		b = binary.AppendUvarint(b, uint64(seq))
	}
	return b
}

func decodeSeqs(b []byte) (seqs []uint32, err error) {
	for r := (uvarints{b: b}); len(r.b) > 0; {
		if seq := r.next(); !r.failed {
			seqs = append(seqs, uint32(seq))
		} else {
			err = errors.New("read requests that were handed out: damaged number")
		}
	}
	return seqs, err
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
