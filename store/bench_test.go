package store

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"go.etcd.io/bbolt"

	"stoker/store/durable"
	"stoker/store/journal"
)

// benchPayload is as long as a short answer in the OpenAI form.
func benchPayload(seq uint32) []byte {
	return append(fmt.Appendf(nil, `{"id":"batch_req_1_%d","custom_id":"r%d","response":"`, seq+1, seq), append(bytes.Repeat([]byte("x"), 400), `"}`...)...)
}

// benchBatch opens a batch of n requests, of which the first records have a record.
func benchBatch(b *testing.B, n, records int) (*world, *Batch) {
	b.Helper()
	w := newWorld(b, fastDir(b))
	b.Cleanup(func() { w.Close() })
	batch := w.open(w.admitLines(n))
	b.Cleanup(func() { batch.Close() })
	for seq := range uint32(records) {
		_, err := batch.Append(journal.Frame{Kind: journal.KindOutput, Seq: seq, Payload: benchPayload(seq)})
		must(b, err)
	}
	must(b, batch.Flush())
	return w, batch
}

func BenchmarkAppend(b *testing.B) {
	_, batch := benchBatch(b, b.N, 0)
	payload := benchPayload(0)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	b.ResetTimer()
	for seq := range uint32(b.N) {
		_, err := batch.Append(journal.Frame{Kind: journal.KindOutput, Seq: seq, Payload: payload})
		must(b, err)
	}
}

// BenchmarkCommit is one group commit of a thousand results, to a real disk if the folder for temporary files is on one.
func BenchmarkCommit(b *testing.B) {
	const perCommit, perBatch = 1000, 50_000
	w := newWorld(b, b.TempDir())
	b.Cleanup(func() { w.Close() })
	var batch *Batch
	payload, seq := benchPayload(0), uint32(perBatch)
	for b.Loop() {
		if seq == perBatch {
			b.StopTimer()
			if batch != nil {
				must(b, batch.Close())
			}
			batch, seq = w.open(w.admit(w.drop(NewID()+".jsonl", lines(perBatch))).ID), 0
			b.StartTimer()
		}
		for range perCommit {
			_, err := batch.Append(journal.Frame{Kind: journal.KindOutput, Seq: seq, Payload: payload})
			must(b, err)
			seq++
		}
		w.commit(batch)
	}
	must(b, batch.Close())
}

func BenchmarkRecoveryScan(b *testing.B) {
	_, batch := benchBatch(b, 50_000, 50_000)
	b.SetBytes(batch.journal.Size())
	for b.Loop() {
		_, err := batch.journal.Scan(b.Context(), journal.Start, batch.journal.Size(), false, func(int64, journal.Frame) error { return nil })
		must(b, err)
	}
}

// BenchmarkResults puts b.N results together in input order; -benchtime 1000000x is a batch of a million.
func BenchmarkResults(b *testing.B) {
	_, batch := benchBatch(b, b.N, b.N)
	b.ResetTimer()
	results, err := batch.Results()
	must(b, err)
	defer results.Close()
	must(b, results.Each(true, func(f journal.Frame) error {
		b.SetBytes(f.Size())
		return nil
	}))
}

// BenchmarkAdmit admits a file of b.N lines.
func BenchmarkAdmit(b *testing.B) {
	w := newWorld(b, fastDir(b))
	b.Cleanup(func() { w.Close() })
	text := lines(b.N)
	b.SetBytes(int64(len(text) / b.N))
	b.ResetTimer()
	w.admit(w.drop("x.jsonl", text))
}

// BenchmarkAdmitBesideEnded admits new files of one line, none of which may be that of a batch that has ended, of which there
// are some.
func BenchmarkAdmitBesideEnded(b *testing.B) {
	for _, ended := range []int{100, 10_000} {
		b.Run(strconv.Itoa(ended), func(b *testing.B) {
			w := newWorld(b, fastDir(b))
			b.Cleanup(func() { w.Close() })
			w.enterEnded(ended)
			for n := 0; b.Loop(); n++ {
				a := w.drop(fmt.Sprintf("x%d.jsonl", n), lineA+"\n")
				a.SkipEnded = true
				w.admit(a)
			}
		})
	}
}

// enterEnded enters batches that have ended in the database.
func (w *world) enterEnded(n int) {
	w.Helper()
	must(w, w.write(func(tx *bbolt.Tx) error {
		for i := range n {
			name := FileName(fmt.Sprintf("old%d", i))
			r := newRecord(&Meta{ID: NewID(), Name: name, Requests: 1, CreatedAt: now(), Input: Input{
				Name: name + ".jsonl", SHA256: durable.SumBytes([]byte(name)), Bytes: 1, Snapshot: 1, ModTime: 1,
			}})
			r.State, r.EndedAt, r.PublishedAs, r.Archived = Completed, now(), name, true
			if err := errors.Join(putRecord(tx, r), enterInput(tx, r)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// BenchmarkAdmitDuplicates admits a file all of whose lines have one custom_id.
func BenchmarkAdmitDuplicates(b *testing.B) {
	w := newWorld(b, fastDir(b))
	b.Cleanup(func() { w.Close() })
	text := bytes.Repeat([]byte(lineA+"\n"), b.N)
	b.ResetTimer()
	w.admit(w.drop("x.jsonl", string(text)))
}

func BenchmarkVerify(b *testing.B) {
	w, batch := benchBatch(b, 50_000, 0)
	w.answerAll(batch)
	w.commit(batch)
	b.SetBytes(batch.journal.Size())
	for b.Loop() {
		w.checkClean()
	}
}
