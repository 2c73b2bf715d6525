package outbox

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
)

// edition is one batch's way into the outbox.
type edition struct {
	p   *Publisher
	b   *store.Batch
	dir string
}

// nameTakenError means that a foreign file has the name of a result file.
type nameTakenError struct{ path string }

func (e *nameTakenError) Error() string { return e.path + " is somebody else's" }

// temp is a result file's name before its rename. It does not depend on NAME, so that a long one fits and that what a
// crash leaves behind is known by the batch's id.
func (e *edition) temp(suffix string) string {
	return filepath.Join(e.dir, store.TempPrefix+e.b.Meta.ID+suffix+".tmp")
}

func (e *edition) final(suffix string) string {
	return filepath.Join(e.dir, string(e.b.Publication().Name)+suffix)
}

// write puts the files together under temporary names and records them in the journal.
func (e *edition) write(name store.FileName) error {
	results, err := e.b.Results()
	if err != nil {
		return err
	}
	defer results.Close()
	files, err := e.writeResults(results)
	if err != nil {
		return err
	}
	return e.record(name, files, &results.Totals)
}

// inputOrder is the order that was recorded, once there is a record: the configuration may have changed since.
func (e *edition) inputOrder() bool {
	if pub := e.b.Publication(); pub != nil {
		return pub.InputOrder
	}
	return e.p.o.InputOrder
}

// record writes batch.json and then the publish frame, which fixes the edition.
func (e *edition) record(name store.FileName, files []store.PublishedFile, totals *store.Totals) error {
	state := store.Completed
	if e.b.Meta.Refused != nil {
		state = store.Failed
	}
	pub := &store.Publication{Name: name, State: state, Files: files, InputOrder: e.inputOrder()}
	var err error
	if pub.Batch, err = batchObject(e.b, pub, totals, e.p.o.Changed(e.b.Record)); err != nil {
		return err
	}
	if err := e.writeBytes(store.SuffixBatch, pub.Batch); err != nil {
		return err
	}
	faults.Crash("publish.written")
	return e.b.Publish(pub)
}

// writeResults writes the output file, unless the batch failed, and the errors file, unless there are none.
func (e *edition) writeResults(results *store.Results) ([]store.PublishedFile, error) {
	output, err := e.create(store.SuffixOutput)
	if err != nil {
		return nil, err
	}
	defer output.abort()
	failures, err := e.create(store.SuffixErrors)
	if err != nil {
		return nil, err
	}
	defer failures.abort()
	err = results.Each(e.inputOrder(), func(f store.Frame) error {
		if f.Kind == store.KindOutput {
			return output.line(f.Payload)
		}
		return failures.line(f.Payload)
	})
	if err != nil {
		return nil, err
	}
	var files []store.PublishedFile
	for _, w := range []*resultFile{output, failures} {
		if (w == output && e.b.Meta.Refused != nil) || (w == failures && w.lines == 0) {
			continue // its abort removes it
		}
		f, err := w.finish()
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// install renames the recorded files to their names, NAME.batch.json last.
func (e *edition) install() error {
	for _, f := range e.b.Publication().Files {
		if err := e.installOne(f.Suffix, f.SHA256); err != nil {
			return err
		}
		faults.Crash("publish.renamed" + f.Suffix)
	}
	sum := sha256.Sum256(e.b.Publication().Batch)
	return e.installOne(store.SuffixBatch, durable.SHA256(fmt.Sprintf("%x", sum)))
}

// installOne renames one file. That its name is there already, with what was recorded, is how a crash after the rename
// looks.
func (e *edition) installOne(suffix string, want durable.SHA256) error {
	tmp, final := e.temp(suffix), e.final(suffix)
	err := durable.Rename(tmp, final)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist):
	default:
		return onShare(err)
	}
	got, _, err := durable.Hash(final)
	switch {
	case err == nil && got == want:
		return onShare(ignoreMissing(os.Remove(tmp)))
	case err == nil:
		return &nameTakenError{final}
	case !errors.Is(err, fs.ErrNotExist):
		return onShare(err)
	}
	// Neither is there: somebody swept the outbox. The journal has it all.
	if err := e.restore(); err != nil {
		return err
	}
	return onShare(durable.Rename(tmp, final))
}

// restore writes the temporary files again, which must come out as recorded.
func (e *edition) restore() error {
	results, err := e.b.Results()
	if err != nil {
		return err
	}
	defer results.Close()
	files, err := e.writeResults(results)
	if err != nil {
		return err
	}
	for i, f := range e.b.Publication().Files {
		if i >= len(files) || files[i] != f {
			return fmt.Errorf("%s%s came out differently than recorded", e.b.Publication().Name, f.Suffix)
		}
	}
	return e.writeBytes(store.SuffixBatch, e.b.Publication().Batch)
}

// rename reserves another name and takes back what stands under the old one; batch.json does not yet.
func (e *edition) rename() error {
	old := e.b.Publication()
	for _, f := range old.Files {
		if got, _, err := durable.Hash(e.final(f.Suffix)); err == nil && got == f.SHA256 {
			if err := os.Rename(e.final(f.Suffix), e.temp(f.Suffix)); err != nil {
				return onShare(err)
			}
		}
	}
	name, err := e.b.ReserveOther(e.p.NameTaken)
	if err != nil {
		return onShare(err)
	}
	results, err := e.b.Results() // for the totals
	if err != nil {
		return err
	}
	defer results.Close()
	if err := results.Each(e.inputOrder(), func(store.Frame) error { return nil }); err != nil {
		return err
	}
	return e.record(name, old.Files, &results.Totals)
}

// sweep removes temporary files that a repeated attempt wrote beside those that were installed.
func (e *edition) sweep() error {
	for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch} {
		if err := ignoreMissing(os.Remove(e.temp(suffix))); err != nil {
			return onShare(err)
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// resultFile is a result file being written, digest and all.
type resultFile struct {
	suffix string
	f      *os.File
	w      *bufio.Writer
	hash   hash.Hash
	bytes  int64
	lines  int64
}

func (e *edition) create(suffix string) (*resultFile, error) {
	f, err := os.OpenFile(e.temp(suffix), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, onShare(err)
	}
	err = f.Chmod(e.p.o.Mode)
	if err == nil && e.p.o.Group >= 0 {
		err = f.Chown(-1, e.p.o.Group)
	}
	if err != nil {
		f.Close()
		return nil, onShare(err)
	}
	return &resultFile{suffix: suffix, f: f, w: bufio.NewWriterSize(f, 1<<20), hash: sha256.New()}, nil
}

func (w *resultFile) line(b []byte) error {
	w.lines++
	return errors.Join(w.write(b), w.write([]byte{'\n'}))
}

func (w *resultFile) write(b []byte) error {
	w.hash.Write(b)
	w.bytes += int64(len(b))
	_, err := w.w.Write(b)
	return onShare(err)
}

// finish makes the file durable under its temporary name.
func (w *resultFile) finish() (store.PublishedFile, error) {
	err := w.w.Flush()
	if err == nil {
		err = w.f.Sync()
	}
	if cerr := w.f.Close(); err == nil { // NFS reports a full disk here
		err = cerr
	}
	w.f = nil
	sum := durable.SHA256(fmt.Sprintf("%x", w.hash.Sum(nil)))
	return store.PublishedFile{Suffix: w.suffix, SHA256: sum, Bytes: w.bytes}, onShare(err)
}

// abort removes the file unless it was finished.
func (w *resultFile) abort() {
	if w.f != nil {
		w.f.Close()
		os.Remove(w.f.Name())
	}
}

func (e *edition) writeBytes(suffix string, b []byte) error {
	w, err := e.create(suffix)
	if err != nil {
		return err
	}
	defer w.abort()
	if err := w.write(b); err != nil {
		return err
	}
	_, err = w.finish()
	return err
}
