package store

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"stoker/store/durable"
)

func (w *world) inputKey(id string) []byte {
	w.Helper()
	r, err := w.Get(id)
	must(w, err)
	return inputKey(r.Queue, r.Input)
}

// damagedInputs are indexes of inputs that an open state must not go by.
var damagedInputs = map[string]func(tx *bbolt.Tx, key []byte) error{
	"none, as older versions have": func(tx *bbolt.Tx, _ []byte) error { return tx.DeleteBucket(bucketInputs) },
	"not kept by an older version": func(tx *bbolt.Tx, key []byte) error { return tx.Bucket(bucketInputs).Delete(key) },
	"a file that is no batch's": func(tx *bbolt.Tx, _ []byte) error {
		return tx.Bucket(bucketInputs).Put([]byte("q/x/0"), []byte(NewID()))
	},
	"the later of two": func(tx *bbolt.Tx, key []byte) error { return tx.Bucket(bucketInputs).Put(key, []byte(NewID())) },
	"an older batch that is another file's": func(tx *bbolt.Tx, key []byte) error {
		first, _ := tx.Bucket(bucketBatches).Cursor().First()
		return tx.Bucket(bucketInputs).Put(key, first)
	},
}

// However the index of inputs is wrong, verify tells, unless an older version made the state, and opening makes it anew.
func TestIndexOfInputsIsMadeAnew(t *testing.T) {
	for name, damage := range damagedInputs {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fastDir(t))
			w.finish(w.admit(w.drop("first.jsonl", lines(1))).ID, life{inputOrder: true})
			id := w.admitLines(2)
			w.finish(id, life{inputOrder: true})
			w.finish(w.admitLines(2), life{inputOrder: true}) // the same file again
			key, before := w.inputKey(id), w.dump()
			must(t, w.db.Update(func(tx *bbolt.Tx) error { return damage(tx, key) }))
			told := name != "none, as older versions have"
			if broken := w.verify().broken(); len(broken) > 0 != told || told && broken[0].Invariant != NothingLost {
				t.Errorf("verify found %+v beside a daemon", broken)
			}
			must(t, w.Close())

			s, err := OpenReadOnly(w.Dir())
			must(t, err)
			report, err := s.Verify(context.Background(), "", w.folders())
			must(t, errors.Join(err, s.Close()))
			if len(report.Findings) > 0 != told || report.Broken() {
				t.Errorf("verify found %+v without a daemon", report.Findings)
			}

			w.Store, err = Open(w.Dir())
			must(t, err)
			defer w.Close()
			if diff := cmp.Diff(before.Inputs, w.dump().Inputs); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
			a := w.drop("x.jsonl", lines(2))
			a.SkipEnded = true
			_, err = w.Admit(context.Background(), a)
			if duplicate, ok := errors.AsType[*Duplicate](err); !ok || duplicate.Of != id {
				t.Errorf("got %v, want a duplicate of %s", err, id)
			}
			must(t, os.RemoveAll(w.claimDir(w.folders(), a.ID)))
			w.checkClean()
		})
	}
}

// duplicateOf finds in all records which batch a file is to be a duplicate of, "" for none.
func (w *world) duplicateOf(a Admission, ended map[string]bool) (of string) {
	w.Helper()
	sum, _, err := durable.Hash(durable.Local{}, a.Path)
	must(w, err)
	all, err := w.List()
	must(w, err)
	for _, r := range all {
		switch {
		case r.Queue != a.Queue || string(r.Input.Name) != filepath.Base(a.Path) || r.Input.SHA256 != sum:
		case !ended[r.ID]:
			return r.ID
		case a.SkipEnded && of == "":
			of = r.ID
		}
	}
	return of
}

// TestDuplicatesAsTheRecordsSay drops files of a few contents under a few names in any order, while batches end and the state
// is closed, rebuilt and written by versions without the index, and holds what is taken for a duplicate against all records.
func TestDuplicatesAsTheRecordsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("/dev/shm", "stoker-test")
		must(t, err)
		defer os.RemoveAll(dir)
		w := newWorld(t, dir)
		defer func() { w.Close() }()
		ended := map[string]bool{}
		reopen := func() {
			w.Store, err = Open(w.Dir())
			must(t, err)
		}
		t.Repeat(map[string]func(*rapid.T){
			"drop": func(t *rapid.T) {
				a := w.drop(rapid.SampledFrom([]string{"x.jsonl", "y.jsonl"}).Draw(t, "name"), lines(rapid.IntRange(1, 2).Draw(t, "lines")))
				a.Queue = rapid.SampledFrom([]string{"", "q"}).Draw(t, "queue")
				a.SkipEnded = rapid.Bool().Draw(t, "skip")
				want := w.duplicateOf(a, ended)
				r, err := w.Admit(context.Background(), a)
				duplicate, refused := errors.AsType[*Duplicate](err)
				if err != nil && !refused {
					t.Fatal(err)
				}
				switch {
				case refused && duplicate.Of != want:
					t.Fatalf("a duplicate of %q, want %q", duplicate.Of, want)
				case !refused && want != "":
					t.Fatalf("no duplicate, want one of %q", want)
				case refused:
					must(t, os.RemoveAll(w.claimDir(w.folders(), a.ID)))
				default:
					ended[r.ID] = false
				}
			},
			"end": func(t *rapid.T) {
				for _, id := range slices.Sorted(maps.Keys(ended)) {
					if !ended[id] {
						b := w.open(id)
						w.answerAll(b)
						w.commit(b)
						must(t, errors.Join(b.Finalize(), b.Close()))
						ended[id] = true
						return
					}
				}
			},
			"open again": func(t *rapid.T) { must(t, w.Close()); reopen() },
			"older version": func(t *rapid.T) {
				must(t, w.Close())
				w.raw(func(tx *bbolt.Tx) error {
					key, _ := tx.Bucket(bucketInputs).Cursor().First()
					if key == nil || rapid.Bool().Draw(t, "all") {
						return tx.DeleteBucket(bucketInputs)
					}
					return tx.Bucket(bucketInputs).Delete(key)
				})
				reopen()
			},
			"": func(t *rapid.T) {
				must(t, w.view(func(tx *bbolt.Tx) error {
					return eachInputMisfit(tx, func(id, misfit string) { t.Fatalf("%s: %s", id, misfit) })
				}))
			},
		})
	})
}

// Where opening an older version's state found no room for the index of inputs, the next admission makes it.
func TestAdmissionIndexesInputs(t *testing.T) {
	w := openWorld(t)
	id := w.admitLines(2)
	w.finish(id, life{inputOrder: true})
	must(t, w.db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(bucketInputs) }))
	w.indexed = false
	a := w.drop("x.jsonl", lines(2))
	a.SkipEnded = true
	_, err := w.Admit(context.Background(), a)
	if duplicate, ok := errors.AsType[*Duplicate](err); !ok || duplicate.Of != id {
		t.Errorf("got %v, want a duplicate of %s", err, id)
	}
}
