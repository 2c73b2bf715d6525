package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"stoker/store/batchfile"
	"stoker/store/durable"
	"stoker/store/journal"
)

// world is a state folder with the folders around it. The methods do what inbox, dispatcher and publisher do.
type world struct {
	rapid.TB
	*Store
	dir string
}

// newWorld opens the state in dir, which holds state/, inbox/ and outbox/.
func newWorld(t rapid.TB, dir string) *world {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "outbox"), 0o755))
	s, err := Open(filepath.Join(dir, "state"))
	must(t, err)
	return &world{TB: t, Store: s, dir: dir}
}

// openWorld is newWorld in a folder of its own, closed with the test.
func openWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, t.TempDir())
	t.Cleanup(func() { w.Close() })
	return w
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0xff
	return b
}

// encodeFrames is a journal of these frames.
func encodeFrames(t rapid.TB, frames ...journal.Frame) []byte {
	t.Helper()
	dir, err := os.MkdirTemp("", "stoker-test")
	must(t, err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, journalFile)
	must(t, journal.Create(durable.Local{}, path))
	j, err := journal.Open(durable.Local{}, path, os.O_RDWR)
	must(t, err)
	for _, f := range frames {
		must(t, j.Append(f))
	}
	must(t, errors.Join(j.Flush(), j.Close()))
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

func must(t rapid.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) folders() Folders {
	return Folders{Inbox: filepath.Join(w.dir, "inbox"), Outbox: filepath.Join(w.dir, "outbox"), Archive: filepath.Join(w.dir, "archive")}
}

// drop puts a claimed file where the inbox has it.
func (w *world) drop(name, content string) Admission {
	w.Helper()
	id := NewID()
	dir := filepath.Join(w.folders().Inbox, ".processing", w.Instance(), id)
	must(w, os.MkdirAll(dir, 0o755))
	path := filepath.Join(dir, name)
	must(w, os.WriteFile(path, []byte(content), 0o644))
	return Admission{ID: id, Path: path, MaxLine: 1 << 20, NameTaken: w.nameTaken}
}

func (w *world) nameTaken(queue string, name FileName) (bool, error) {
	_, err := os.Lstat(filepath.Join(w.folders().Outbox, queue, string(name)+SuffixBatch))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (w *world) admit(a Admission) *Record {
	w.Helper()
	r, err := w.Admit(context.Background(), a)
	must(w, err)
	return r
}

// admitLines admits a file of n simple requests and returns the batch's id.
func (w *world) admitLines(n int) string {
	w.Helper()
	return w.admit(w.drop("x.jsonl", lines(n))).ID
}

func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"custom_id":"r%d","prompt":"question %d"}`+"\n", i, i)
	}
	return b.String()
}

func (w *world) open(id string) *Batch {
	w.Helper()
	b, err := w.OpenBatch(context.Background(), id)
	must(w, err)
	return b
}

func (w *world) commit(b *Batch) {
	w.Helper()
	c, err := b.Checkpoint(Engine{Kind: "echo", Version: "1", Model: "m"})
	must(w, err)
	must(w, w.Commit([]Checkpoint{c}))
}

// answer makes the record of a request: an answer with the text, or the error of a line that cannot run.
func (w *world) answer(b *Batch, seq uint32, text string) journal.Frame {
	w.Helper()
	req, err := b.Request(seq)
	if bad, ok := errors.AsType[*batchfile.LineError](err); ok {
		line := batchfile.AppendError(nil, &bad.Ref, batchfile.RequestID(b.Meta.ID, bad.Line), "req", batchfile.Failure{Code: bad.Code, Message: bad.Message})
		return journal.Frame{Kind: journal.KindError, Seq: seq, Payload: line}
	}
	must(w, err)
	body := fmt.Appendf(nil, `{"choices":[{"message":{"content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}`, text)
	line, info, err := new(batchfile.Encoder).AppendOutput(nil, &req, batchfile.RequestID(b.Meta.ID, req.Line), "req", body)
	must(w, err)
	return journal.Frame{
		Kind: journal.KindOutput, Seq: seq, Status: 200, Finish: journal.FinishOf(info.FinishReason), Payload: line,
		PromptTokens: uint32(info.PromptTokens), CompletionTokens: uint32(info.CompletionTokens),
	}
}

// record appends a request's answer, which must be its first.
func (w *world) record(b *Batch, seq uint32, text string) {
	w.Helper()
	fresh, err := b.Append(w.answer(b, seq, text))
	must(w, err)
	if !fresh {
		w.Fatalf("request %d had a record", seq)
	}
}

// answerAll records an answer for every request that is left.
func (w *world) answerAll(b *Batch) {
	w.Helper()
	for seq, ok := b.Next(); ok; seq, ok = b.Next() {
		w.record(b, seq, "answer")
	}
	if !b.Complete() {
		w.Fatalf("no more requests, but %d of %d have a record", b.Progress().Records(), b.Meta.Requests)
	}
}

// life is what taking a batch to its end consists of. Stage is called between the steps, each of which a crash may follow.
type life struct {
	inputOrder bool
	stage      func(string)
}

// finish takes a batch to its end, from whatever state it is in.
func (w *world) finish(id string, l life) {
	w.Helper()
	if l.stage == nil {
		l.stage = func(string) {}
	}
	b := w.open(id)
	defer func() { must(w, b.Close()) }()
	l.stage("opened")
	w.answerAll(b)
	must(w, b.Flush())
	l.stage("answered")
	w.commit(b)
	l.stage("committed")
	if !b.Published() {
		must(w, b.Finalize())
		l.stage("begun")
		w.publish(b, l)
		l.stage("published")
	}
	must(w, b.End())
	l.stage("ended")
}

func (w *world) publish(b *Batch, l life) {
	w.Helper()
	files, totals := w.contents(b, l.inputOrder)
	if b.Publication() == nil {
		p := &Publication{Name: b.Meta.Name, State: Completed, InputOrder: l.inputOrder, Batch: batchJSON(b, totals)}
		for _, suffix := range []string{SuffixOutput, SuffixErrors} {
			if text := files[suffix]; suffix == SuffixOutput || len(text) > 0 {
				p.Files = append(p.Files, PublishedFile{Suffix: suffix, SHA256: durable.SumBytes(text), Bytes: int64(len(text))})
			}
		}
		must(w, b.Publish(p))
		l.stage("recorded")
	}
	p := b.Publication()
	files, _ = w.contents(b, p.InputOrder)
	for _, f := range p.Files {
		w.install(p.Name, f.Suffix, files[f.Suffix])
		l.stage("installed " + f.Suffix)
	}
	w.install(p.Name, SuffixBatch, p.Batch)
}

// batchJSON holds what a rebuild reads of NAME.batch.json.
func batchJSON(b *Batch, totals Totals) []byte {
	at := b.Record.FinalizingAt / 1000
	return fmt.Appendf(nil, `{"finalizing_at":%d,"completed_at":%d,"stoker":{"redone":%d,"completed":%d}}`, at, at, b.Progress().Redone, totals.Completed)
}

func (w *world) install(name FileName, suffix string, text []byte) {
	w.Helper()
	must(w, durable.WriteFile(durable.Local{}, filepath.Join(w.folders().Outbox, string(name)+suffix), text, 0o644))
}

// contents puts the result files together.
func (w *world) contents(b *Batch, inputOrder bool) (map[string][]byte, Totals) {
	w.Helper()
	results, err := b.Results()
	must(w, err)
	files := map[string][]byte{}
	must(w, results.Each(inputOrder, func(f journal.Frame) error {
		suffix := SuffixOutput
		if f.Kind == journal.KindError {
			suffix = SuffixErrors
		}
		files[suffix] = append(append(files[suffix], f.Payload...), '\n')
		return nil
	}))
	must(w, results.Close())
	return files, results.Totals
}

// crash copies the world as it is on disk now: what the process held in memory is not in the copy.
func (w *world) crash(t rapid.TB, to string) *world {
	w.Helper()
	must(w, os.CopyFS(to, os.DirFS(w.dir)))
	return newWorld(t, to)
}

func (w *world) verify() *Report {
	w.Helper()
	report, err := w.Verify(context.Background(), "", w.folders())
	must(w, err)
	return report
}

func (w *world) checkClean() {
	w.Helper()
	if report := w.verify(); len(report.Findings) > 0 {
		w.Errorf("verify found %+v", report.Findings)
	}
}

func (w *world) path(id, file string) string { return filepath.Join(w.batchDir(id), file) }

// edit changes a file in place.
func (w *world) edit(path string, change func([]byte) []byte) {
	w.Helper()
	b, err := os.ReadFile(path)
	must(w, err)
	must(w, os.WriteFile(path, change(b), 0o600))
}

// putProgress writes a batch's checkpoint over; nil leaves none that can be read.
func (w *world) putProgress(id string, value []byte) {
	w.Helper()
	must(w, w.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketProgress).Put([]byte(id), value) }))
}
