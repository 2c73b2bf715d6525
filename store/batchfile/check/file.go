package check

import (
	"context"
	"fmt"
	"os"

	"stoker/store/batchfile"
)

// File checks the batch file at path, decoded if its name ends in .gz or .zst, in any case.
func File(ctx context.Context, path string, opts Options) (Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return Report{}, fmt.Errorf("check: %w", err)
	}
	defer f.Close()
	_, compression := batchfile.CompressionOf(path)
	r, err := batchfile.Decode(f, compression)
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
