package check

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// File checks the batch file at path, decoded if its name ends in .gz or .zst, in any case.
func File(ctx context.Context, path string, opts Options) (Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return Report{}, fmt.Errorf("check: %w", err)
	}
	defer f.Close()
	r, err := decode(f, path)
	if err != nil {
		return Report{}, fmt.Errorf("check %s: %w", path, err)
	}
	defer r.Close()
	report, err := Reader(ctx, r, opts)
	if err != nil {
		return report, fmt.Errorf("check %s: %w", path, err)
	}
	return report, nil
}

func decode(f io.Reader, name string) (io.ReadCloser, error) {
	switch lower := strings.ToLower(name); {
	case strings.HasSuffix(lower, ".gz"):
		return gzip.NewReader(f)
	case strings.HasSuffix(lower, ".zst"):
		d, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(f), nil
}
