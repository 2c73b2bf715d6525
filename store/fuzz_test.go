package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/bbolt"

	"stoker/store/batchfile"
	"stoker/store/batchfile/check"
	"stoker/store/durable"
	"stoker/store/journal"
)

// fuzzWorld is a world with one batch of three requests, whose folder a fuzz target damages.
func fuzzWorld(f *testing.F) (w *world, id string) {
	w = newWorld(f, fastDir(f))
	f.Cleanup(func() { w.Close() })
	return w, w.admitLines(3)
}

// with is the world in a test of its own: what a fuzz target calls must not fail the target as a whole.
func (w *world) with(t testing.TB) *world { return &world{TB: t, Store: w.Store, dir: w.dir} }

// forget removes a batch's checkpoint and what its record learned, so that each input is judged by itself.
func (w *world) forget(id string) {
	w.Helper()
	must(w, w.db.Update(func(tx *bbolt.Tx) error {
		m, err := readMeta(w.fs, w.batchDir(id))
		if err != nil {
			return err
		}
		if err := putRecord(tx, newRecord(m)); err != nil {
			return err
		}
		return tx.Bucket(bucketProgress).Delete([]byte(id))
	}))
}

// FuzzRecoverJournal opens a batch whose journal holds arbitrary bytes: only valid frames are adopted, and the batch goes
// on to its end.
func FuzzRecoverJournal(f *testing.F) {
	result := journal.Frame{Kind: journal.KindOutput, Seq: 1, Status: 200, Payload: []byte(`{"custom_id":"r1","response":"a"}`)}
	whole := encodeFrames(f, result, journal.Frame{Kind: journal.KindSuspect, Seq: 0, Status: 1})
	for _, content := range [][]byte{
		whole, whole[:len(whole)-3], flip(whole, 20), whole[:4], {},
		encodeFrames(f, result, result, journal.Frame{Kind: journal.KindError, Seq: 99}),
		encodeFrames(f, journal.Frame{Kind: journal.KindHanded, Seq: 1<<32 - 1}, journal.Frame{Kind: journal.KindDone}, journal.Frame{Kind: journal.KindPublish, Payload: []byte(`{}`)}),
	} {
		f.Add(content, false)
		f.Add(content, true)
	}
	w, id := fuzzWorld(f)
	f.Fuzz(func(t *testing.T, content []byte, lost bool) {
		w := w.with(t)
		w.forget(id)
		if lost { // the checkpoint; else there was none yet
			w.putProgress(id, nil)
		}
		w.recoverAny(t, id, content)
	})
}

// recoverAny opens a batch with this journal, and takes it to its end.
func (w *world) recoverAny(t *testing.T, id string, content []byte) {
	t.Helper()
	head := encodeFrames(t)
	path := w.path(id, journalFile)
	must(t, os.WriteFile(path, content, 0o600))
	b, err := w.OpenBatch(context.Background(), id)
	if err != nil {
		if bytes.HasPrefix(content, head) && !bytes.Contains(content, []byte("SJ\x04")) {
			t.Fatalf("a journal was refused: %v", err)
		}
		return // no journal at all, or a publish frame with a right CRC and a wrong payload
	}
	defer func() { must(t, b.Close()) }()
	got, _ := os.ReadFile(path)
	if frames, ok := bytes.CutPrefix(got, head); len(content) >= len(head) && (!ok || !bytes.HasPrefix(content[len(head):], frames)) {
		t.Fatal("recovery did more than mend the head and cut the tail off")
	}
	wasPublished := b.Published()
	for seq, ok := b.Next(); ok; seq, ok = b.Next() {
		wasPublished = false
		fresh, err := b.Append(journal.Frame{Kind: journal.KindError, Seq: seq, Payload: []byte("{}")})
		if err != nil || !fresh {
			t.Fatalf("request %d was handed out: %v, %v", seq, fresh, err)
		}
	}
	must(t, b.Flush())
	if !b.Complete() || b.Published() != wasPublished {
		t.Fatalf("%d of %d requests have a record, published %v", b.Progress().Records(), b.Meta.Requests, b.Published())
	}
	checkReopened(t, w, b)
}

// checkReopened opens a complete batch a second time, as after a crash: there is nothing left to recover.
func checkReopened(t *testing.T, w *world, b *Batch) {
	t.Helper()
	again, err := w.OpenBatch(context.Background(), b.Meta.ID)
	must(t, err)
	defer func() { must(t, again.Close()) }()
	if r := again.Recovered; !again.Complete() || r.CutBytes != 0 || r.Redone != 0 {
		t.Fatalf("opened again: complete %v, %+v", again.Complete(), r)
	}
	results, err := again.Results()
	must(t, err)
	defer results.Close()
	n := uint32(0)
	must(t, results.Each(true, func(f journal.Frame) error {
		if f.Seq != n || !f.Kind.IsResult() {
			t.Fatalf("result %d is of request %d, kind %d", n, f.Seq, f.Kind)
		}
		n++
		return nil
	}))
	if n != again.Meta.Requests || results.Totals.Completed+results.Totals.Failed != n {
		t.Fatalf("%d results, totals %+v", n, results.Totals)
	}
}

// FuzzDamagedJournal damages the journal of a batch that ran: what is behind the checkpoint may be lost and runs again,
// what is before it is found damaged and runs again; nothing else changes.
func FuzzDamagedJournal(f *testing.F) {
	w, id := fuzzWorld(f)
	b := w.open(id)
	w.record(b, 1, "first")
	w.commit(b)
	w.record(b, 0, "second")
	must(f, b.Flush())
	must(f, b.Close())
	whole, err := os.ReadFile(w.path(id, journalFile))
	must(f, err)
	progress := w.progressValue(id)
	f.Add(uint16(len(whole)), uint16(0), byte(0))
	f.Add(uint16(len(whole)-1), uint16(0), byte(0))
	f.Add(uint16(9), uint16(0), byte(0))
	f.Add(uint16(len(whole)), uint16(20), byte(1))
	f.Add(uint16(len(whole)), uint16(len(whole)-5), byte(0x80))
	f.Fuzz(func(t *testing.T, size, at uint16, mask byte) {
		w := w.with(t)
		content := bytes.Clone(whole[:min(int(size), len(whole))])
		if int(at) < len(content) && int64(at) >= journal.Start {
			content[at] ^= mask
		}
		w.putProgress(id, progress)
		must(t, os.WriteFile(w.path(id, journalFile), content, 0o600))
		b, err := w.OpenBatch(context.Background(), id)
		must(t, err)
		defer func() { must(t, b.Close()) }()
		for !w.answeredAll(t, b) {
		}
		must(t, b.Flush())
		checkReopened(t, w, b)
	})
}

// answeredAll records what is missing, and reports whether nothing of it is damaged.
func (w *world) answeredAll(t *testing.T, b *Batch) bool {
	t.Helper()
	for seq, ok := b.Next(); ok; seq, ok = b.Next() {
		_, err := b.Append(journal.Frame{Kind: journal.KindOutput, Seq: seq, Payload: fmt.Appendf(nil, `{"custom_id":"r%d"}`, seq)})
		must(t, err)
	}
	if !b.Complete() {
		t.Fatalf("no more requests, but %d of %d have a record", b.Progress().Records(), b.Meta.Requests)
	}
	results, err := b.Results()
	if errors.Is(err, journal.ErrDamaged) {
		return false
	}
	must(t, err)
	must(t, results.Close())
	return true
}

func (w *world) progressValue(id string) (value []byte) {
	w.Helper()
	must(w, w.db.View(func(tx *bbolt.Tx) error {
		value = bytes.Clone(tx.Bucket(bucketProgress).Get([]byte(id)))
		return nil
	}))
	return value
}

// FuzzDecodeProgress gives the decoder values whose checksum is right.
func FuzzDecodeProgress(f *testing.F) {
	f.Add((&Progress{Offset: 8, redo: []uint32{1}}).encode()[:10])
	f.Add([]byte{progressVersion, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	far := &Progress{Offset: 1 << 40}
	far.handed.low = 1<<32 - 1
	far.done.low = 1<<32 - 3
	far.done.bits[WindowSize/64-1] = 1 << 63
	value := far.encode()
	f.Add(value[:len(value)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := decodeProgress(binary.LittleEndian.AppendUint32(body, crc32.Checksum(body, crcTable)))
		if err != nil {
			return
		}
		p.Has(0)
		p.Has(1<<32 - 1)
		if again, err := decodeProgress(p.encode()); err != nil || !reflect.DeepEqual(p, again) {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}

func FuzzPublication(f *testing.F) {
	for _, p := range []*Publication{
		{Name: "x", State: Completed, InputOrder: true, Files: []PublishedFile{{SuffixOutput, durable.SumBytes(nil), 0}}, Batch: []byte("{}\n")},
		{Name: "\xff", State: Failed, Changed: true},
	} {
		b, err := json.Marshal(p)
		must(f, err)
		f.Add(b)
	}
	for _, text := range []string{`{}`, `null`, `{"name":{"base64":"/w=="},"files":null,"batch":""}`, `{"files":[{}]}`, `{"batch":"%"}`, `[]`, ``} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := decodePublication(text)
		if err != nil {
			return
		}
		b, err := json.Marshal(p)
		must(t, err)
		again, err := decodePublication(b)
		must(t, err)
		if diff := cmp.Diff(p, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", text, diff)
		}
	})
}

// FuzzLineIndex opens a batch whose line index holds arbitrary bytes: requests are refused or are a part of the
// snapshot, and verify sees what it sees without coming to harm.
func FuzzLineIndex(f *testing.F) {
	w, id := fuzzWorld(f)
	whole, err := os.ReadFile(w.path(id, indexFile))
	must(f, err)
	for _, content := range [][]byte{whole, whole[:rowSize-1], whole[:2*rowSize], {}, make([]byte, 3*rowSize), flip(whole, 8), flip(whole, 7), flip(whole, 16), flip(whole, 20)} {
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		w := w.with(t)
		must(t, os.WriteFile(w.path(id, indexFile), content, 0o600))
		b, err := w.OpenBatch(context.Background(), id)
		if (err == nil) != (len(content) == len(whole)) {
			t.Fatalf("index of %d bytes: %v", len(content), err)
		}
		if _, err := w.Verify(context.Background(), id, w.folders()); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		defer func() { must(t, b.Close()) }()
		for seq := range b.Meta.Requests {
			b.Request(seq)
		}
	})
}

// FuzzMeta opens a batch whose meta.json holds arbitrary bytes: it is refused, unless it says what the record says.
func FuzzMeta(f *testing.F) {
	w, id := fuzzWorld(f)
	whole, err := os.ReadFile(w.path(id, metaFile))
	must(f, err)
	object, err := unsealed(whole)
	must(f, err)
	replace := func(old, new string) []byte {
		if !bytes.Contains(object, []byte(old)) {
			f.Fatalf("meta.json has no %s: %s", old, object)
		}
		return sealed(bytes.Replace(object, []byte(old), []byte(new), 1))
	}
	for _, content := range [][]byte{
		whole, whole[:len(whole)-1], {}, []byte(`{}`), []byte(`null`), replace(`"requests":3`, `"requests":0`), replace(`"requests":3`, `"requests":4000000000`),
		replace(`"max_line":`, `"max_line":-`), replace(`"schema":2`, `"schema":3`), flip(whole, 30), replace(`"endpoint"`, `"defaults":[],"endpoint"`),
	} {
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		w := w.with(t)
		must(t, os.WriteFile(w.path(id, metaFile), content, 0o600))
		b, err := w.OpenBatch(context.Background(), id)
		if _, err := w.Verify(context.Background(), id, w.folders()); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		defer func() { must(t, b.Close()) }()
		if r := b.Record; b.Meta.ID != id || b.Meta.Requests != 3 || b.Meta.Name != r.Name || b.Meta.Input != r.Input || b.Meta.MaxLine < 1 {
			t.Fatalf("took %q", content)
		}
		for seq := range b.Meta.Requests {
			b.Request(seq)
		}
	})
}

// FuzzNames holds what names of inputs become: names of result files that fit a folder.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"x.jsonl", "x.JSONL.gz", ".jsonl", strings.Repeat("日", 83) + ".jsonl", "\xff\xfe.jsonl.zst", strings.Repeat("\x80", 249) + ".jsonl"} {
		f.Add(name, uint8(2))
	}
	f.Fuzz(func(t *testing.T, name string, n uint8) {
		if len(name) > maxName || strings.ContainsAny(name, "/\x00") {
			return // no name of a file
		}
		b, err := json.Marshal(FileName(name))
		must(t, err)
		var back FileName
		if err := json.Unmarshal(b, &back); err != nil || string(back) != name {
			t.Fatalf("%q became %q through %s: %v", name, string(back), b, err)
		}
		if !utf8.ValidString(back.String()) {
			t.Fatalf("%q is shown as %q", name, back.String())
		}
		stem, _, ok := SplitInputName(name)
		if !ok {
			return
		}
		if !strings.HasPrefix(name, stem) || stem == "" || utf8.ValidString(name) != utf8.ValidString(stem) && utf8.ValidString(name) {
			t.Fatalf("%q has the stem %q", name, stem)
		}
		for _, suffix := range []string{SuffixOutput, SuffixErrors, SuffixBatch, SuffixStatus, SuffixDuplicate} {
			if result := fmt.Sprintf("%s~%d%s", stem, int(n)*39, suffix); len(result) > maxName {
				t.Fatalf("%q of %d bytes does not fit", result, len(result))
			}
		}
	})
}

// FuzzAdmission holds what admission makes of a file against what check says of it, line by line.
func FuzzAdmission(f *testing.F) {
	for _, text := range []string{
		lines(2), "", "\n\n", "no JSON\n", "\xEF\xBB\xBF" + lines(1), "{\x00}\x00", lines(1) + "\n" + lines(1) + strings.Repeat("x", 300) + "\n",
		`{"custom_id":1,"prompt":"a"}` + "\n" + `{"custom_id":"1","body":{"input":"b"}}` + "\r\n" + `{"custom_id":"1","prompt":5}`,
		`{"prompt":"a"}` + "\n" + `{"custom_id":"line-1","prompt":"b"}` + "\n",
	} {
		f.Add([]byte(text), uint16(200), true)
		f.Add([]byte(text), uint16(30), false)
	}
	dir := fastDir(f)
	path, folder := filepath.Join(dir, "x.jsonl"), filepath.Join(dir, "batch")
	must(f, os.Mkdir(folder, 0o700))
	f.Fuzz(func(t *testing.T, text []byte, maxLine uint16, complete bool) {
		must(t, os.WriteFile(path, text, 0o600))
		a := Admission{ID: NewID(), FS: durable.Local{}, Path: path, MaxLine: int64(maxLine) + 1, Complete: complete}
		var faults []*batchfile.LineError
		report, err := check.Reader(context.Background(), bytes.NewReader(text), check.Options{
			MaxLine: int(a.MaxLine), TempDir: dir,
			Problem: func(e *batchfile.LineError) error {
				kept := *e
				kept.Metadata = nil // aliases the line
				faults = append(faults, &kept)
				return nil
			},
		})
		must(t, err)
		m, err := takeSnapshot(context.Background(), durable.Local{}, folder, a)
		if errors.Is(err, ErrNoNewline) {
			if complete || report.Refused == "" && !report.MissingNewline {
				t.Fatalf("%q waits for the rest", text)
			}
			return
		}
		must(t, err)
		if int64(m.Requests) != report.Requests || int64(m.Invalid) != report.Invalid() || (m.Refused != nil) != (report.Refused != "") {
			t.Fatalf("%q: admission says %+v, check %+v", text, m, report)
		}
		if m.Input.SHA256 != durable.SumBytes(text) || m.Input.Bytes != int64(len(text)) {
			t.Fatalf("%q: %+v", text, m.Input)
		}
		if diff := cmp.Diff(sortedFaults(faults), admittedFaults(t, folder, m)); diff != "" {
			t.Fatalf("%q (-check +admission):\n%s", text, diff)
		}
	})
}

func sortedFaults(faults []*batchfile.LineError) []*batchfile.LineError {
	slices.SortFunc(faults, func(a, b *batchfile.LineError) int { return int(a.Line - b.Line) })
	return faults
}

// admittedFaults reads the bad lines of a snapshot, as they are recorded when they run.
func admittedFaults(t *testing.T, folder string, m *Meta) (faults []*batchfile.LineError) {
	t.Helper()
	b := &Batch{Meta: m}
	for name, dst := range map[string]*durable.File{inputFile: &b.snapshot.input, indexFile: &b.snapshot.index} {
		file, err := durable.Local{}.OpenFile(filepath.Join(folder, name), os.O_RDONLY, 0)
		must(t, err)
		defer file.Close()
		*dst = file
	}
	must(t, b.checkSnapshot())
	for seq := range m.Requests {
		_, err := b.Request(seq)
		fault, bad := errors.AsType[*batchfile.LineError](err)
		if err != nil && !bad {
			t.Fatal(err)
		}
		if bad {
			kept := *fault
			kept.Metadata = nil
			faults = append(faults, &kept)
		}
	}
	return faults
}
