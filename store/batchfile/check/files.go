package check

import (
	"context"
	"errors"
	"io"

	"stoker/store/batchfile"
)

// Printer writes what checks find: for each file Begin, Problem for each bad line, End.
type Printer interface {
	Begin(path string) error
	Problem(*batchfile.LineError) error
	End(*Report, error) error // the error says why the file could not be read to its end, or nil
	Close() error
}

// Files checks one file after the other; "-" is stdin. ok is false if some line would not run, or some file would fail.
// A file that cannot be read does not keep the others from being checked; the error tells of all such.
func Files(ctx context.Context, paths []string, stdin io.Reader, opts Options, p Printer) (ok bool, err error) {
	opts.Problem = p.Problem
	ok = true
	var unreadable []error
	for _, path := range paths {
		if err := p.Begin(path); err != nil {
			return false, err
		}
		report, err := one(ctx, path, stdin, opts)
		if err != nil {
			unreadable = append(unreadable, err)
		}
		ok = ok && report.OK()
		if err := p.End(&report, err); err != nil {
			return false, err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return ok, errors.Join(append(unreadable, p.Close())...)
}

func one(ctx context.Context, path string, stdin io.Reader, opts Options) (Report, error) {
	if path == "-" {
		return Reader(ctx, stdin, opts)
	}
	return File(ctx, path, opts)
}
