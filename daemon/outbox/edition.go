package outbox

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
	"stoker/store/journal"
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

// errDiffers means that the journal no longer makes the files that were recorded: damaged records ran again since.
var errDiffers = errors.New("results came out differently than recorded")

// temp is a whole result file's name before its rename. It does not depend on NAME, so that a long one fits and that
// what a crash leaves behind is known by the batch's id.
func (e *edition) temp(suffix string) string {
	return filepath.Join(e.dir, store.TempPrefix+e.b.Meta.ID+suffix+".tmp")
}

func (e *edition) final(suffix string) string {
	return filepath.Join(e.dir, string(e.b.Publication().Name)+suffix)
}

// write puts the files together under temporary names and records them in the journal.
func (e *edition) write(name store.FileName) error {
	results, err := e.results()
	if err != nil {
		return err
	}
	defer results.Close()
	files, err := e.writeResults(results, nil)
	if err != nil {
		return err
	}
	return e.record(name, files, &results.Totals)
}

// results reads the whole journal, to see where each result is.
func (e *edition) results() (*store.Results, error) {
	defer e.p.o.Pulse.Long()()
	return e.b.Results()
}

// inputOrder is the order that was recorded, once there is a record: the configuration may have changed since.
func (e *edition) inputOrder() bool {
	if pub := e.b.Publication(); pub != nil {
		return pub.InputOrder
	}
	return e.p.o.InputOrder
}

// lacking says of an outbox without room how much the result files need, and gives back what half of them took up.
func (e *edition) lacking(err error) error {
	if _, shared := errors.AsType[*shareError](err); !shared || !durable.IsFull(err) {
		return err
	}
	if e.b.Publication() == nil {
		if err := e.sweep(); err != nil {
			return err
		}
	}
	return onShare(durable.Full(e.p.o.Dir, e.b.Size(), err))
}

// record writes batch.json and then the publish frame, which fixes the edition.
func (e *edition) record(name store.FileName, files []store.PublishedFile, totals *store.Totals) error {
	state := store.Completed
	if e.b.Meta.Refused != nil {
		state = store.Failed
	}
	pub := &store.Publication{Name: name, State: state, Files: files, InputOrder: e.inputOrder(), Changed: e.p.o.Changed(e.b.Record)}
	if pub.Changed {
		e.p.o.Logger.Warn().Str("batch", e.b.Meta.ID).Str("input", e.b.Meta.Input.Name.String()).
			Msg("input was written to after it was claimed; what came later did not run")
	}
	var err error
	if pub.Batch, err = batchObject(e.b, pub, totals); err != nil {
		return err
	}
	if err := e.writeBytes(store.SuffixBatch, pub.Batch); err != nil {
		return err
	}
	faults.Crash("publish.written")
	return e.b.Publish(pub)
}

// writeResults writes the output file, unless the batch failed, and the errors file, unless there are none. Of those that
// are installed already it only finds out what they are to be: a whole file under a temporary name beside one that is
// installed would make that one look like somebody else's after a crash.
func (e *edition) writeResults(results *store.Results, installed []string) ([]store.PublishedFile, error) {
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
	err = results.Each(e.inputOrder(), func(f journal.Frame) error {
		e.p.o.Pulse.Beat()
		if f.Kind == journal.KindOutput {
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
		if slices.Contains(installed, w.suffix) {
			if err := w.flush(); err != nil { // for the digest
				return nil, err
			}
			files = append(files, w.published())
			continue
		}
		f, err := w.finish()
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// install renames the recorded files to their names, NAME.batch.json last: when it is there, so are the others.
func (e *edition) install() error {
	if err := e.refuseStrangers(); err != nil {
		return err
	}
	for _, f := range e.b.Publication().Files {
		if err := e.installOne(f.Suffix, f.SHA256); err != nil {
			return err
		}
		faults.Crash("publish.renamed" + f.Suffix)
	}
	if err := durable.SyncDir(e.p.o.FS, e.dir); err != nil {
		return onShare(err)
	}
	return e.installOne(store.SuffixBatch, e.batchSum())
}

// refuseStrangers looks for a file that would be taken for one of this edition, though it has none of this suffix.
func (e *edition) refuseStrangers() error {
	for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors} {
		if slices.ContainsFunc(e.b.Publication().Files, func(f store.PublishedFile) bool { return f.Suffix == suffix }) {
			continue
		}
		if _, err := e.p.o.FS.Lstat(e.final(suffix)); err == nil {
			return &nameTakenError{e.final(suffix)}
		} else if ignoreMissing(err) != nil {
			return onShare(err)
		}
	}
	return nil
}

// batchSum is the digest of NAME.batch.json.
func (e *edition) batchSum() durable.SHA256 {
	return durable.SumBytes(e.b.Publication().Batch)
}

// installOne renames one file. That its name is there already, with what was recorded, is how a crash after the rename
// looks.
func (e *edition) installOne(suffix string, want durable.SHA256) error {
	tmp, final := e.temp(suffix), e.final(suffix)
	rename := e.p.o.FS.RenameNew
	if faults.Planted("publish-replaces") {
		rename = e.p.o.FS.Rename
	}
	err := rename(tmp, final)
	if err == nil || !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return onShare(err)
	}
	switch there, err := e.inspect(suffix, want); {
	case err != nil:
		return onShare(err)
	case there == ours:
		return onShare(ignoreMissing(e.p.o.FS.Remove(tmp)))
	case there == foreign:
		return &nameTakenError{final}
	}
	// Neither is there. Once batch.json is, it was complete, and somebody took this file away.
	if batch, err := e.inspect(store.SuffixBatch, e.batchSum()); err != nil || batch == ours {
		return onShare(err)
	}
	// Else somebody swept the outbox. The journal has it all.
	if err := e.restore(); err != nil {
		return err
	}
	return onShare(e.p.o.FS.RenameNew(tmp, final))
}

// standing is what has a result file's name.
type standing int

const (
	nothing standing = iota
	ours             // what this edition put there
	foreign          // anything else
)

// inspect finds out whose file has a result file's name. The digest alone does not tell: the same input makes the same
// answers, so that another batch's file may be equal to the byte. What this edition renamed has no temporary file left,
// or the same one under both names, where a crash interrupted a rename made of link and unlink.
func (e *edition) inspect(suffix string, want durable.SHA256) (standing, error) {
	path := e.final(suffix)
	st, err := e.p.o.FS.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nothing, nil
	}
	if err != nil {
		return nothing, err
	}
	if !st.Mode().IsRegular() {
		return foreign, nil
	}
	if tmp, err := e.p.o.FS.Lstat(e.temp(suffix)); err == nil && !durable.SameFile(tmp, st) {
		return foreign, nil
	} else if ignoreMissing(err) != nil {
		return nothing, err
	}
	got, _, err := durable.Hash(e.p.o.FS, path)
	if err != nil {
		return nothing, err
	}
	if got != want {
		return foreign, nil
	}
	return ours, nil
}

// restore writes the temporary files again that are not installed. All must come out as recorded.
func (e *edition) restore() error {
	installed, err := e.installed()
	if err != nil {
		return onShare(err)
	}
	results, err := e.results()
	if err != nil {
		return err
	}
	defer results.Close()
	files, err := e.writeResults(results, installed)
	if err != nil {
		return err
	}
	if !slices.Equal(files, e.b.Publication().Files) {
		return errDiffers
	}
	return e.writeBytes(store.SuffixBatch, e.b.Publication().Batch)
}

// mend makes another edition if that is what an error of install calls for, else it returns the error.
func (e *edition) mend(err error) error {
	_, taken := errors.AsType[*nameTakenError](err)
	log := e.p.o.Logger.With().Str("batch", e.b.Meta.ID).Logger()
	switch {
	case taken:
		log.Warn().Err(err).Msg("somebody put a file there; publishing under another name")
		return e.rename()
	case errors.Is(err, errDiffers):
		log.Warn().Err(err).Msg("publishing anew")
		return e.revise()
	}
	return err
}

// rename reserves another name and takes back what stands under the old one; batch.json does not yet.
func (e *edition) rename() error {
	if err := e.takeBack(); err != nil {
		return err
	}
	name, err := e.b.ReserveOther(func(queue string, name store.FileName) (bool, error) {
		taken, err := e.p.NameTaken(queue, name)
		return taken, onShare(err)
	})
	if err != nil {
		return err
	}
	results, err := e.results() // for the totals
	if err != nil {
		return err
	}
	defer results.Close()
	beat := func(journal.Frame) error { e.p.o.Pulse.Beat(); return nil }
	if err := results.Each(e.inputOrder(), beat); err != nil {
		return err
	}
	return e.record(name, e.b.Publication().Files, &results.Totals)
}

// takeBack gives files that were renamed their temporary names again.
func (e *edition) takeBack() error {
	installed, err := e.installed()
	if err != nil {
		return onShare(err)
	}
	for _, suffix := range installed {
		if err := e.p.o.FS.Rename(e.final(suffix), e.temp(suffix)); err != nil {
			return onShare(err)
		}
	}
	return nil
}

// installed returns the suffixes of the files that have their names already, batch.json left out.
func (e *edition) installed() (suffixes []string, err error) {
	for _, f := range e.b.Publication().Files {
		there, err := e.inspect(f.Suffix, f.SHA256)
		if err != nil {
			return nil, err
		}
		if there == ours {
			suffixes = append(suffixes, f.Suffix)
		}
	}
	return suffixes, nil
}

// revise replaces an edition that can no longer be put together, before its batch.json is there.
func (e *edition) revise() error {
	if err := e.takeBack(); err != nil {
		return err
	}
	if err := e.sweep(); err != nil {
		return err
	}
	return e.write(e.b.Publication().Name)
}

// sweep removes temporary files that a repeated attempt wrote beside those that were installed.
func (e *edition) sweep() error {
	for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch} {
		for _, path := range []string{e.temp(suffix), e.temp(suffix) + partial} {
			if err := ignoreMissing(e.p.o.FS.Remove(path)); err != nil {
				return onShare(err)
			}
		}
	}
	return nil
}
