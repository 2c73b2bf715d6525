package journal

import (
	"errors"

	"stoker/store/durable"
)

// Reader reads frames anywhere, those at nearby offsets from one block.
type Reader struct {
	f     durable.Source
	end   int64
	block durable.Block
}

// Read returns the frame at an offset, or ErrDamaged. Its payload is valid until the next call.
func (r *Reader) Read(at int64) (Frame, error) {
	f, err := readFrame(func(offset int64, length int) ([]byte, error) { return r.block.Read(r.f, offset, length) }, at, r.end)
	if errors.Is(err, errTorn) {
		err = ErrDamaged
	}
	return f, err
}

// readFrameAt returns the frame at an offset, with a payload of its own, or errTorn.
func readFrameAt(f durable.Source, at, end int64) (Frame, error) {
	return readFrame(func(offset int64, length int) ([]byte, error) {
		b := make([]byte, length)
		_, err := f.ReadAt(b, offset)
		return b, tornOr(err)
	}, at, end)
}

// readFrame returns the frame at an offset, or errTorn. Its payload is what read returned.
func readFrame(read func(offset int64, length int) ([]byte, error), at, end int64) (Frame, error) {
	header, err := read(at, headerSize)
	if err != nil {
		return Frame{}, err
	}
	f, length, crc, ok := parseHeader(header)
	if !ok || at+headerSize+int64(length) > end {
		return Frame{}, errTorn
	}
	whole, err := read(at, headerSize+int(length))
	if err != nil {
		return Frame{}, err
	}
	f.Payload = whole[headerSize:]
	if frameCRC(whole, f.Payload) != crc {
		return Frame{}, errTorn
	}
	return f, nil
}
