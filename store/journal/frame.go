// Package journal is a batch's append-only file of frames: an 8-byte head, then frames of a 32-byte header and a payload.
//
//	0  magic 'S' 'J'     2  kind, 3 finish     4  seq       8  status, 10 zero    12 payload length
//	16 prompt tokens     20 completion tokens  24 zero      28 CRC-32C of header (before this field) and payload
//
// All integers are little-endian. A frame is valid whole or not at all: the CRC covers both parts, so that a torn tail
// is recognised wherever it was torn.
package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

const (
	head = "STOKERJ1"
	// Start is where the first frame begins.
	Start      = int64(len(head))
	headerSize = 32
	magic0     = 'S'
	magic1     = 'J'
	// MaxPayload is how many bytes a frame holds. It bounds what a damaged length field can make a reader allocate.
	MaxPayload = 1 << 30
)

// Kind says what a frame records.
type Kind uint8

const (
	KindOutput  Kind = 1 // Payload is the request's line of NAME.output.jsonl
	KindError   Kind = 2 // Payload is the request's line of NAME.errors.jsonl
	KindSuspect Kind = 3 // the engine died while it held this request; Status counts how often
	KindPublish Kind = 4 // Payload says what is published: a store.Publication
	KindDone    Kind = 5 // the publication is complete and durable
	KindHanded  Kind = 6 // requests below Seq were given to the engine, and those in Payload, if any
	KindEngine  Kind = 7 // Payload says which engine answers from here on
)

// IsResult reports whether a frame of this kind is a request's one record.
func (k Kind) IsResult() bool { return k == KindOutput || k == KindError }

// Frame is one record of a journal.
type Frame struct {
	Kind             Kind
	Finish           Finish // of a result: why generation ended
	Seq              uint32 // the request's index in the batch, from 0
	Status           uint16 // HTTP-like status of a result; deaths of a suspect
	PromptTokens     uint32
	CompletionTokens uint32
	Payload          []byte
}

var (
	crcTable = crc32.MakeTable(crc32.Castagnoli)

	// ErrDamaged means that frames in the checked part of a journal are no longer valid.
	ErrDamaged = errors.New("damaged records in the journal")
	// errTorn means that no whole, valid frame begins at an offset.
	errTorn = errors.New("no valid frame")
)

func appendFrame(dst []byte, f Frame) []byte {
	start := len(dst)
	dst = append(dst, magic0, magic1, byte(f.Kind), byte(f.Finish))
	dst = binary.LittleEndian.AppendUint32(dst, f.Seq)
	dst = binary.LittleEndian.AppendUint16(dst, f.Status)
	dst = append(dst, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(f.Payload)))
	dst = binary.LittleEndian.AppendUint32(dst, f.PromptTokens)
	dst = binary.LittleEndian.AppendUint32(dst, f.CompletionTokens)
	dst = append(dst, 0, 0, 0, 0)
	crc := crc32.Update(crc32.Checksum(dst[start:], crcTable), crcTable, f.Payload)
	dst = binary.LittleEndian.AppendUint32(dst, crc)
	return append(dst, f.Payload...)
}

// parseHeader returns the frame without its payload, the payload's length and the CRC.
func parseHeader(h []byte) (f Frame, length, crc uint32, ok bool) {
	f = Frame{
		Kind: Kind(h[2]), Finish: Finish(h[3]), Seq: binary.LittleEndian.Uint32(h[4:]),
		Status:           binary.LittleEndian.Uint16(h[8:]),
		PromptTokens:     binary.LittleEndian.Uint32(h[16:]),
		CompletionTokens: binary.LittleEndian.Uint32(h[20:]),
	}
	length, crc = binary.LittleEndian.Uint32(h[12:]), binary.LittleEndian.Uint32(h[28:])
	ok = h[0] == magic0 && h[1] == magic1 && f.Kind >= KindOutput && f.Kind <= KindEngine && length <= MaxPayload
	return f, length, crc, ok
}

func frameCRC(header, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(header[:headerSize-4], crcTable), crcTable, payload)
}

// Size is how many bytes the frame takes up in a journal.
func (f *Frame) Size() int64 { return headerSize + int64(len(f.Payload)) }
