package batchfile

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Compression is how a file's bytes are packed.
type Compression string

const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

// CompressionOf tells a file's compression by the suffix of its name, in any case, and returns the name without that.
func CompressionOf(name string) (unpacked string, c Compression) {
	for suffix, c := range map[string]Compression{".gz": Gzip, ".zst": Zstd} {
		if cut := len(name) - len(suffix); cut >= 0 && strings.EqualFold(name[cut:], suffix) {
			return name[:cut], c
		}
	}
	return name, Plain
}

// StreamError is a fault of a compressed stream.
type StreamError struct {
	Truncated bool // more may come
	err       error
}

func (e *StreamError) Error() string { return "the compressed file cannot be read: " + e.err.Error() }
func (e *StreamError) Unwrap() error { return e.err }

// Decode unpacks r. The decoder's own errors come as *StreamError; those of r stay as they are.
func Decode(r io.Reader, c Compression) (io.ReadCloser, error) {
	src := &errorKeeper{r: r}
	switch c {
	case Gzip:
		z, err := gzip.NewReader(bufio.NewReaderSize(src, 1<<18))
		if err != nil {
			return nil, src.classify(err)
		}
		return &decoder{z, src, func() { z.Close() }}, nil
	case Zstd:
		z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, src.classify(err)
		}
		return &decoder{z, src, z.Close}, nil
	default:
		return io.NopCloser(r), nil
	}
}

type decoder struct {
	io.Reader
	src   *errorKeeper
	close func()
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = d.src.classify(err)
	}
	return n, err
}

func (d *decoder) Close() error { d.close(); return nil }

// errorKeeper remembers an error of the source, to tell it from one of the decoder.
type errorKeeper struct {
	r   io.Reader
	err error
}

func (k *errorKeeper) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		k.err = err
	}
	return n, err
}

func (k *errorKeeper) classify(err error) error {
	if k.err != nil {
		return k.err
	}
	return &StreamError{err: err, Truncated: errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)}
}
