package store

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// streamError is a fault of a compressed stream.
type streamError struct {
	err       error
	truncated bool
}

func (e *streamError) Error() string { return "the compressed file cannot be read: " + e.err.Error() }
func (e *streamError) Unwrap() error { return e.err }

// decode unpacks r. The decoder's own errors come as *streamError; those of r stay as they are.
func decode(r io.Reader, c Compression) (io.ReadCloser, error) {
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
	return &streamError{err: err, truncated: errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)}
}

// contextReader stops a long copy when the daemon stops.
type contextReader struct {
	ctx context.Context
	r   io.Reader
	n   int64 // bytes read
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
