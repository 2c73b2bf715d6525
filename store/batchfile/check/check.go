// Package check validates a batch file offline, by the rules that admission applies.
package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"stoker/store/batchfile"
	"stoker/store/dedupe"
	"stoker/store/durable"
)

// Options of a check.
type Options struct {
	MaxLine int    // bytes a line's text may have, as inbox.max_line
	TempDir string // for what memory does not hold of a large file; "": the system's

	// Problem is called for each bad line, in order, but for repeated ids after all others. nil: they are only counted.
	// The error's slices are valid during the call. An error that it returns ends the check.
	Problem func(*batchfile.LineError) error
}

// Report says what a file holds.
type Report struct {
	Bytes    int64                    // of the decoded text
	Lines    int64                    // physical lines
	Requests int64                    // lines that are not blank
	ByForm   map[batchfile.Form]int64 // valid requests
	ByURL    map[string]int64         // valid requests
	ByCode   map[string]int64         // bad lines, by the code of their error

	Refused        string // why the file as a whole would fail; "" if it would not
	MissingNewline bool   // after the last line: the inbox waits a while before it takes such a file
}

// Invalid is the number of bad lines.
func (r *Report) Invalid() (n int64) {
	for _, count := range r.ByCode {
		n += count
	}
	return n
}

// OK reports whether every line of the file would run.
func (r *Report) OK() bool { return r.Refused == "" && r.Invalid() == 0 }

// checker is one check under way.
type checker struct {
	opts   Options
	report Report
	parser batchfile.Parser
	finder *dedupe.Finder
	ids    *idLog
}

// Reader checks the text that r holds, decoded. Memory is bounded however long it is. An error means that the text could
// not be read to its end; the report is then of what was read.
func Reader(ctx context.Context, r io.Reader, opts Options) (Report, error) {
	scratch := func() (dedupe.File, error) { return durable.Local{}.Scratch(opts.TempDir) }
	c := &checker{
		opts:   opts,
		finder: dedupe.New(scratch, 0),
		ids:    newIDLog(scratch),
		report: Report{ByForm: map[batchfile.Form]int64{}, ByURL: map[string]int64{}, ByCode: map[string]int64{}},
	}
	defer c.finder.Close()
	defer c.ids.close()
	err := c.lines(ctx, batchfile.NewSplitter(r, opts.MaxLine))
	if err == nil {
		err = c.duplicates(ctx)
	}
	if err == nil {
		c.conclude()
	}
	return c.report, err
}

func (c *checker) lines(ctx context.Context, split *batchfile.Splitter) error {
	defer func() { c.report.Bytes, c.report.Lines = split.Offset(), split.Lines() }()
	for ctx.Err() == nil {
		line, err := split.Next()
		switch {
		case errors.Is(err, batchfile.ErrUTF16):
			c.report.Refused = err.Error() + ": save it as UTF-8"
			return nil
		case err == io.EOF:
			c.report.MissingNewline = split.Offset() > 0 && !split.EndsWithNewline()
			return nil
		case err != nil:
			return err
		}
		if err := c.line(line); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (c *checker) line(line batchfile.Line) error {
	c.report.Requests++
	if line.TooLong {
		return c.problem(batchfile.TooLongError(line, c.opts.MaxLine))
	}
	req, err := c.parser.Parse(line.Text, line.Number)
	if fault, bad := errors.AsType[*batchfile.LineError](err); bad {
		return c.problem(fault)
	}
	return c.accept(&req)
}

// accept counts a valid request and remembers its id. Only valid ones compete for an id: the first of them runs.
func (c *checker) accept(req *batchfile.Request) error {
	c.report.ByForm[req.Form]++
	c.report.ByURL[req.URL]++
	if c.ids.len() == math.MaxUint32 {
		return fmt.Errorf("more than %d requests in one file", uint32(math.MaxUint32))
	}
	seq := uint32(c.ids.len())
	if err := c.ids.append(entry{line: req.Line, form: req.Form, url: req.URL, id: req.CustomID}); err != nil {
		return err
	}
	return c.finder.Add(c.finder.Hash(req.CustomID), seq)
}

func (c *checker) duplicates(ctx context.Context) error {
	return c.finder.Duplicates(c.ids.same, func(seq, first uint32) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return c.duplicate(seq, first)
	})
}

func (c *checker) duplicate(seq, first uint32) error {
	e, err := c.ids.at(seq)
	if err != nil {
		return err
	}
	earlier, err := c.ids.at(first)
	if err != nil {
		return err
	}
	c.report.ByForm[e.form]--
	c.report.ByURL[e.url]--
	ref := batchfile.Ref{CustomID: e.id, HasID: true, Line: e.line, Form: e.form}
	return c.problem(batchfile.DuplicateError(ref, earlier.line))
}

func (c *checker) problem(fault *batchfile.LineError) error {
	c.report.ByCode[fault.Code]++
	if c.opts.Problem == nil {
		return nil
	}
	return c.opts.Problem(fault)
}

// conclude judges the file as a whole.
func (c *checker) conclude() {
	r := &c.report
	switch {
	case r.Refused != "":
	case r.Bytes == 0:
		r.Refused = "the file is empty"
	case r.Requests == 0:
		r.Refused = "the file holds only blank lines"
	case r.Invalid() == r.Requests:
		r.Refused = "no line is valid"
	}
}
