package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"stoker/store/journal"
	"stoker/store/layout"
)

// contentsOf is what a database says, in a form to be compared.
type contentsOf struct {
	Instance string
	Records  map[string]Record
	Progress map[string]Progress
	Names    map[string]string
	Active   map[string]string
	Inputs   map[string]string
}

func (w *world) dump() contentsOf {
	w.Helper()
	c := contentsOf{w.Instance(), map[string]Record{}, map[string]Progress{}, map[string]string{}, map[string]string{}, map[string]string{}}
	records, err := w.List()
	must(w, err)
	for _, r := range records {
		p, err := w.Progress(r.ID)
		must(w, err)
		c.Records[r.ID], c.Progress[r.ID] = *r, *p
	}
	must(w, w.db.View(func(tx *bbolt.Tx) error {
		for _, b := range []struct {
			name []byte
			to   map[string]string
		}{{bucketNames, c.Names}, {bucketActive, c.Active}, {bucketInputs, c.Inputs}} {
			if err := tx.Bucket(b.name).ForEach(func(k, v []byte) error { b.to[string(k)] = string(v); return nil }); err != nil {
				return err
			}
		}
		return nil
	}))
	return c
}

// compareDumps compares what a rebuild must find again. It knows times roughly, and not when a batch that has no
// publish frame began to be finalized; a batch that has not ended is read at its end, not at its last checkpoint.
func compareDumps(before, after contentsOf) string {
	for id, r := range before.Records {
		p := before.Progress[id]
		if r.State == Finalizing && after.Records[id].State == InProgress { // complete, but nothing was published of it
			r.State, r.FinalizingAt = InProgress, 0
			before.Active[string(inputKey(r.Queue, r.Input))] = id
		}
		if !r.State.Ended() {
			p = after.Progress[id]
			r.Suspects = max(r.Suspects, after.Records[id].Suspects)
		}
		if r.State == Validating { // it may have run since its last checkpoint
			r.State, r.InProgressAt = after.Records[id].State, after.Records[id].InProgressAt
		}
		before.Records[id], before.Progress[id] = r, p
	}
	seconds := cmp.FilterPath(func(p cmp.Path) bool { return strings.HasSuffix(p.Last().String(), "At") },
		cmp.Comparer(func(a, b int64) bool { return (a == 0) == (b == 0) && max(a-b, b-a) < time.Minute.Milliseconds() })) // machines are slow
	return cmp.Diff(before, after, seconds, cmpopts.EquateEmpty(), cmp.AllowUnexported(Progress{}, window{}))
}

// damages are the ways to lose a database.
var damages = map[string]func(w *world){
	"lost":   func(w *world) { must(w, os.Remove(w.dbFile())) },
	"spoilt": func(w *world) { w.spoil(w.rootPage()) },
}

// rebuild loses the database of a closed state, makes it anew and opens the state.
func (w *world) rebuild(damage func(w *world)) *Rebuilt {
	w.Helper()
	damage(w)
	report, err := Rebuild(context.Background(), w.Dir(), w.folders(), false)
	must(w, err)
	if !report.Rebuilt || report.Reason == "" {
		w.Fatalf("not rebuilt: %+v", report)
	}
	w.Store, err = Open(w.Dir())
	must(w, err)
	return report
}

// archive is what the inbox does with the input of a batch that has ended.
func (w *world) archive(id string) {
	w.Helper()
	r, err := w.Get(id)
	must(w, err)
	to := filepath.Join(w.folders().Archive, "done", string(r.Input.Name))
	must(w, os.MkdirAll(filepath.Dir(to), 0o755))
	dir := w.claimDir(w.folders(), id)
	must(w, os.Rename(filepath.Join(dir, string(r.Input.Name)), to))
	must(w, os.Remove(dir))
	must(w, w.SetArchived(id))
}

// TestRebuildAtEveryStage loses the database between any two steps of a batch's life, makes it anew and goes on.
func TestRebuildAtEveryStage(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fastDir(t))
			defer w.Close()
			old := w.admit(w.drop("old.jsonl", lines(4))).ID
			w.finish(old, life{inputOrder: true})
			w.archive(old)
			id := w.admit(w.drop("x.jsonl", lines(20)+"{broken\n"+lines(1))).ID
			stages := 0
			check := func(stage string) {
				stages++
				after := w.crash(t, fastDir(t))
				defer func() { after.Close() }()
				before := after.dump()
				must(t, after.Close())
				report := after.rebuild(damage)
				if report.Batches != 2 || len(report.Skipped) != 0 || report.Instance != before.Instance || (report.Aside != "") != (name == "spoilt") {
					t.Errorf("%s: %+v", stage, report)
				}
				if diff := compareDumps(before, after.dump()); diff != "" {
					t.Errorf("%s (-before +after):\n%s", stage, diff)
				}
				after.checkCrash(id, true, stage)
				after.checkResults("old", 4, true)
			}
			check("accepted")
			w.finish(id, life{inputOrder: true, stage: check})
			w.archive(id)
			check("archived")
			if stages != 11 {
				t.Errorf("%d stages were reached", stages)
			}
		})
	}
}

// Files that were claimed and are no batch yet, and folders of batches that were not accepted, are left to the next start.
func TestRebuildLeavesClaims(t *testing.T) {
	w := newWorld(t, fastDir(t))
	claimed := w.drop("x.jsonl", lines(2))
	half := w.drop("y.jsonl", lines(3))
	must(t, os.Mkdir(w.batchDir(half.ID), 0o700))
	w.admit(w.drop("z.jsonl", lines(1)))
	must(t, w.Close())
	report := w.rebuild(damages["lost"])
	defer func() { w.Close() }()
	if report.Batches != 1 || len(report.Skipped) != 1 || report.Skipped[0].Blocked || report.Skipped[0].Folder != w.batchDir(half.ID) {
		t.Errorf("%+v", report)
	}
	if want := []string{claimed.ID, half.ID}; !slices.Equal(report.Claims, want) {
		t.Errorf("claims %v, want %v", report.Claims, want)
	}
	for _, a := range []Admission{claimed, half} {
		w.finish(w.admit(a).ID, life{inputOrder: true})
	}
	w.checkResults("x", 2, true)
	w.checkResults("y", 3, true)
}

// A folder whose meta.json or journal cannot be read is told, and its claimed file does not run a second time.
func TestRebuildBlocksWhatItCannotRead(t *testing.T) {
	for name, damage := range map[string]func(w *world, id string){
		"meta cut off":    func(w *world, id string) { must(w, os.Truncate(w.path(id, metaFile), 9)) },
		"meta gone":       func(w *world, id string) { must(w, os.Remove(w.path(id, metaFile))) },
		"meta of another": func(w *world, id string) { w.edit(w.path(id, metaFile), flipID) },
		"no journal": func(w *world, id string) {
			w.edit(w.path(id, journalFile), func([]byte) []byte { return []byte("nothing") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fastDir(t))
			bad := w.admit(w.drop("x.jsonl", lines(2)))
			w.finish(bad.ID, life{inputOrder: true})
			good := w.admit(w.drop("y.jsonl", lines(2))).ID
			must(t, w.Close())
			damage(w, bad.ID)
			report := w.rebuild(damages["lost"])
			defer func() { w.Close() }()
			if report.Batches != 1 || len(report.Skipped) != 1 || !report.Skipped[0].Blocked || len(report.Claims) != 0 {
				t.Errorf("%+v", report)
			}
			if _, got, err := w.Census(); err != nil || len(got) != 1 || got[0].ID != bad.ID {
				t.Errorf("bad records %+v, %v", got, err)
			}
			if _, err := w.Admit(context.Background(), Admission{ID: bad.ID}); !errors.Is(err, errBadRecord) {
				t.Errorf("admitted again: %v", err)
			}
			w.finish(good, life{inputOrder: true})
			must(t, w.Close())

			// Once the folder is gone the file is free to run again.
			must(t, os.RemoveAll(w.batchDir(bad.ID)))
			forced, err := Rebuild(context.Background(), w.Dir(), w.folders(), true)
			must(t, err)
			if !forced.Rebuilt || !slices.Equal(forced.Claims, []string{bad.ID}) {
				t.Errorf("%+v", forced)
			}
			w.Store, err = Open(w.Dir())
			must(t, err)
		})
	}
}

// What the old database knows of a batch whose folder cannot be read stays known, and verify says what to do, not to rebuild
// once more. With the file put back the batch goes on.
func TestRebuildKeepsWhatItCannotRead(t *testing.T) {
	for name, file := range map[string]string{"meta": metaFile, "journal": journalFile} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fastDir(t))
			id := w.admitLines(2)
			b := w.open(id)
			w.record(b, 0, "a")
			w.commit(b)
			must(t, b.Close())
			before := w.dump()
			must(t, w.Close())
			whole, err := os.ReadFile(w.path(id, file))
			must(t, err)
			must(t, os.WriteFile(w.path(id, file), []byte("{"), 0o600))
			for range 2 {
				report, err := Rebuild(context.Background(), w.Dir(), w.folders(), true)
				must(t, err)
				if len(report.Skipped) != 1 || !report.Skipped[0].Kept || !report.Skipped[0].Blocked || len(report.Claims) != 0 {
					t.Errorf("%+v", report)
				}
			}
			w.Store, err = Open(w.Dir())
			must(t, err)
			defer func() { w.Close() }()
			if diff := compareDumps(before, w.dump()); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
			if f := w.verify().Findings; len(f) == 0 || f[0].Invariant != Resumes || !strings.Contains(f[0].Message, "put its files back from a copy, or move ") {
				t.Errorf("found %+v", f)
			}
			must(t, os.WriteFile(w.path(id, file), whole, 0o600))
			w.finish(id, life{inputOrder: true})
			w.checkClean()
		})
	}
}

// A batch that a rebuild could make nothing of is no reason for another one.
func TestRebuildOfABlockedBatchEnds(t *testing.T) {
	w := newWorld(t, fastDir(t))
	id := w.admitLines(2)
	must(t, w.Close())
	must(t, os.Truncate(w.path(id, metaFile), 9))
	w.rebuild(damages["lost"])
	if f := w.verify().Findings; len(f) != 1 || f[0].Invariant != Resumes || !strings.Contains(f[0].Message, "put its files back from a copy, or move ") {
		t.Errorf("found %+v", f)
	}
	must(t, w.Close())
	if r, err := Rebuild(context.Background(), w.Dir(), w.folders(), false); err != nil || r.Rebuilt {
		t.Errorf("%+v, %v", r, err)
	}
}

func flipID(b []byte) []byte { return []byte(strings.Replace(string(b), `"batch_0`, `"batch_1`, 1)) }

// Without anything wrong nothing is done; a state in use is left alone; where there is none there is nothing to rebuild.
func TestRebuildRefuses(t *testing.T) {
	w := newWorld(t, fastDir(t))
	w.finish(w.admitLines(2), life{inputOrder: true})
	rebuild := func(force bool) (*Rebuilt, error) {
		return Rebuild(context.Background(), w.Dir(), w.folders(), force)
	}
	if _, err := rebuild(true); !errors.Is(err, ErrInUse) {
		t.Errorf("in use: %v", err)
	}
	before := w.dump()
	must(t, w.Close())
	if r, err := rebuild(false); err != nil || r.Rebuilt || r.Reason != "" || r.Instance != before.Instance {
		t.Errorf("nothing wrong: %+v, %v", r, err)
	}
	for n := range 3 { // within a second: each old one gets a name of its own
		if r, err := rebuild(true); err != nil || !r.Rebuilt || r.Aside == "" {
			t.Errorf("forced: %+v, %v", r, err)
		}
		if aside, _ := filepath.Glob(w.dbFile() + ".damaged-*"); len(aside) != n+1 {
			t.Errorf("old databases: %v", aside)
		}
	}
	s, err := Open(w.Dir())
	must(t, err)
	w.Store = s
	defer w.Close()
	if diff := compareDumps(before, w.dump()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	if _, err := Rebuild(context.Background(), filepath.Join(w.dir, "nowhere"), w.folders(), true); !errors.Is(err, ErrNoState) {
		t.Errorf("nowhere: %v", err)
	}
}

// Records that cannot be read, that contradict meta.json, or that are missing are wrong, too.
func TestRebuildFindsMisfits(t *testing.T) {
	for name, damage := range map[string]func(tx *bbolt.Tx, id string) error{
		"bad record":     func(tx *bbolt.Tx, id string) error { return tx.Bucket(bucketBatches).Put([]byte(id), []byte("?")) },
		"record missing": func(tx *bbolt.Tx, id string) error { return tx.Bucket(bucketBatches).Delete([]byte(id)) },
		"another name": func(tx *bbolt.Tx, id string) error {
			r, err := getRecord(tx, id)
			if err != nil {
				return err
			}
			r.Name = "y"
			return putRecord(tx, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fastDir(t))
			id := w.admitLines(2)
			w.finish(id, life{inputOrder: true})
			w.archive(id)
			before := w.dump()
			must(t, w.db.Update(func(tx *bbolt.Tx) error { return damage(tx, id) }))
			must(t, w.Close())
			w.rebuild(func(*world) {})
			defer func() { w.Close() }()
			if diff := compareDumps(before, w.dump()); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
			w.checkClean()
		})
	}
}

// Without the instance's file the claims of batches tell it; without either it is a new one.
func TestRebuildFindsTheInstance(t *testing.T) {
	w := newWorld(t, fastDir(t))
	w.admitLines(1)
	must(t, os.MkdirAll(layout.ClaimDir(w.folders().Inbox, "01M86DEVM7YPWXY5HFM6MYEQBR", NewID()), 0o755)) // another stoker's
	instance := w.Instance()
	must(t, w.Close())
	forget := func(w *world) {
		must(w, errors.Join(os.Remove(w.dbFile()), os.Remove(filepath.Join(w.Dir(), instanceFile))))
	}
	if r := w.rebuild(forget); r.Instance != instance || !r.Adopted || w.Instance() != instance {
		t.Errorf("%+v", r)
	}
	must(t, w.Close())
	must(t, os.RemoveAll(layout.ClaimsDir(w.folders().Inbox, "")))
	if r := w.rebuild(forget); r.Instance == instance || r.Adopted {
		t.Errorf("%+v", r)
	}
	must(t, w.Close())
}

// A rebuild that was cut off at any point is done again.
func TestRebuildAgain(t *testing.T) {
	w := newWorld(t, fastDir(t))
	id := w.admitLines(3)
	before := w.dump()
	must(t, w.Close())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	damages["spoilt"](w)
	if _, err := Rebuild(ctx, w.Dir(), w.folders(), false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := os.Lstat(w.dbFile() + ".tmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the new database stays: %v", err)
	}
	must(t, os.WriteFile(w.dbFile()+".tmp", []byte("half a database"), 0o600))
	w.rebuild(func(w *world) {}) // killed before the old one was moved
	must(t, w.Close())
	must(t, os.Rename(w.dbFile(), w.dbFile()+".damaged-x"))
	w.rebuild(func(w *world) {}) // and after
	if diff := compareDumps(before, w.dump()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	w.finish(id, life{})
	must(t, w.Close())
}

// endsSoon is a context that has ended when it is asked a second time.
type endsSoon struct {
	context.Context
	asked bool
}

func (c *endsSoon) Err() error {
	if !c.asked {
		c.asked = true
		return nil
	}
	return context.Canceled
}

// A rebuild ends when it is told to, also within a journal, and blames no batch for that.
func TestRebuildEndsWithinAJournal(t *testing.T) {
	w := newWorld(t, fastDir(t))
	id := w.admitLines(2)
	b := w.open(id)
	w.record(b, 0, "a")
	must(t, b.Close())
	before := w.dump()
	must(t, w.Close())
	if r, err := Rebuild(&endsSoon{Context: context.Background()}, w.Dir(), w.folders(), true); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %+v, %v", r, err)
	}
	reopened, err := Open(w.Dir())
	must(t, err)
	w.Store = reopened
	defer w.Close()
	if diff := cmp.Diff(before, w.dump(), cmp.AllowUnexported(Progress{}, window{})); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	w.finish(id, life{})
}

// TestRandomRebuilds runs batches through random histories, with crashes, and loses the database now and then. In the
// end every request of every batch has one record and one result.
func TestRandomRebuilds(t *testing.T) {
	root, runs := fastDir(t), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w := newWorld(t, filepath.Join(root, fmt.Sprint(runs)))
		h := &history{world: w, requests: map[string]int{}, ids: map[string]string{}}
		t.Repeat(map[string]func(*rapid.T){
			"drop":    h.dropOne,
			"answer":  h.answerSome,
			"finish":  h.finishOne,
			"rebuild": h.loseDatabase,
			"restart": h.restart,
		})
		for name, id := range h.ids {
			if r, err := w.Get(id); err != nil {
				t.Fatal(err)
			} else if !r.State.Ended() {
				w.finish(id, life{inputOrder: true})
			}
			w.checkResults(name, h.requests[name], true)
		}
		if report := w.verify(); report.Broken() {
			t.Fatalf("verify found %+v", report.Findings)
		}
		must(t, w.Close())
		must(t, os.RemoveAll(w.dir))
	})
}

// history is what TestRandomRebuilds has dropped.
type history struct {
	*world
	requests map[string]int    // by name
	ids      map[string]string // by name
	rebuilds int
}

func (h *history) dropOne(t *rapid.T) {
	if len(h.ids) == 4 {
		t.Skip("enough batches")
	}
	name, n := fmt.Sprint("b", len(h.ids)), rapid.IntRange(1, 12).Draw(t, "requests")
	h.requests[name], h.ids[name] = n, h.admit(h.drop(name+".jsonl", lines(n))).ID
}

// running returns a batch that has not ended.
func (h *history) running(t *rapid.T) string {
	var ids []string
	for _, id := range h.ids {
		if r, err := h.Get(id); err != nil {
			t.Fatal(err)
		} else if !r.State.Ended() {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		t.Skip("all have ended")
	}
	slices.Sort(ids)
	return rapid.SampledFrom(ids).Draw(t, "batch")
}

func (h *history) answerSome(t *rapid.T) {
	b := h.open(h.running(t))
	for range rapid.IntRange(0, 5).Draw(t, "answers") {
		seq, ok := b.Next()
		if !ok {
			break
		}
		if rapid.Bool().Draw(t, "suspect") {
			_, err := b.Append(journal.Frame{Kind: journal.KindSuspect, Seq: seq, Status: 1})
			must(t, err)
		}
		h.record(b, seq, "answer")
	}
	if rapid.Bool().Draw(t, "commit") {
		h.commit(b)
	}
	must(t, b.Close())
}

// errStop ends a batch's way at a stage, as a crash does.
var errStop = errors.New("stopped here")

func (h *history) finishOne(t *rapid.T) {
	id, stop := h.running(t), rapid.SampledFrom([]string{"answered", "committed", "begun", "recorded", "installed " + SuffixOutput, "published", ""}).Draw(t, "stop")
	defer func() {
		if p := recover(); p != nil && p != any(errStop) {
			panic(p)
		}
	}()
	h.finish(id, life{inputOrder: true, stage: func(stage string) {
		if stage == stop {
			panic(errStop)
		}
	}})
	if rapid.Bool().Draw(t, "archive") {
		h.archive(id)
	}
}

func (h *history) restart(t *rapid.T) {
	must(t, h.Close())
	s, err := Open(h.Dir())
	must(t, err)
	h.Store = s
}

func (h *history) loseDatabase(t *rapid.T) {
	if len(h.ids) == 0 || h.rebuilds == 3 {
		t.Skip("there is no state to lose, or it was lost often enough")
	}
	h.rebuilds++
	before := h.dump()
	must(t, h.Close())
	h.rebuild(damages[rapid.SampledFrom([]string{"lost", "spoilt"}).Draw(t, "damage")])
	if diff := compareDumps(before, h.dump()); diff != "" {
		t.Fatalf("(-before +after):\n%s", diff)
	}
}
