package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stoker/store/durable"
)

var sampleFrames = []Frame{
	{Kind: KindOutput, Finish: FinishOf("stop"), Seq: 0, Status: 200, PromptTokens: 7, CompletionTokens: 1 << 31, Payload: []byte(`{"custom_id":"a"}`)},
	{Kind: KindSuspect, Seq: 2, Status: 1, Payload: []byte{}},
	{Kind: KindError, Seq: 1<<32 - 1, Status: 400, Payload: []byte("SJ\x01 looks like a frame")},
	{Kind: KindPublish, Payload: []byte(`{"name":"x"}`)},
	{Kind: KindDone, Payload: []byte{}},
	{Kind: KindHanded, Seq: 9, Payload: []byte{}},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sameBytes compares payloads, and sees no difference between none and an empty one.
var sameBytes = cmp.Comparer(bytes.Equal)

func encodeFrames(frames ...Frame) []byte {
	b := []byte(head)
	for _, f := range frames {
		b = appendFrame(b, f)
	}
	return b
}

func journalFileOf(t testing.TB, content []byte) durable.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	must(t, os.WriteFile(path, content, 0o600))
	f, err := durable.Local{}.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// scanned returns the frames of a journal and where the last one ends.
func scanned(t testing.TB, f durable.File, resync bool) (frames []Frame, valid int64) {
	t.Helper()
	st, err := f.Stat()
	must(t, err)
	valid, err = (&Journal{f: f}).Scan(t.Context(), Start, st.Size(), resync, func(_ int64, f Frame) error {
		f.Payload = bytes.Clone(f.Payload)
		frames = append(frames, f)
		return nil
	})
	must(t, err)
	return frames, valid
}

func TestJournalRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	must(t, Create(durable.Local{}, path))
	j, err := Open(durable.Local{}, path, os.O_RDWR)
	must(t, err)
	big := Frame{Kind: KindOutput, Seq: 3, Payload: bytes.Repeat([]byte("x"), flushAt+1)}
	want := append(slices.Clone(sampleFrames), big)
	for _, f := range want {
		must(t, j.Append(f))
	}
	must(t, j.Flush())
	must(t, j.Close())
	j, err = Open(durable.Local{}, path, os.O_RDWR)
	must(t, err)
	defer j.Close()
	got, valid := scanned(t, j.f, false)
	if diff := cmp.Diff(want, got, sameBytes); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
	if valid != j.size {
		t.Errorf("valid up to %d, want the end at %d", valid, j.size)
	}
}

func TestEveryDamageLeavesAPrefix(t *testing.T) {
	whole := encodeFrames(sampleFrames...)
	check := func(t *testing.T, name string, content []byte) {
		t.Helper()
		got, valid := scanned(t, journalFileOf(t, content), false)
		if len(got) > 0 && !cmp.Equal(got, sampleFrames[:min(len(got), len(sampleFrames))], sameBytes) {
			t.Fatalf("%s: adopted %v", name, got)
		}
		if want := int64(len(encodeFrames(got...))); valid != want {
			t.Fatalf("%s: valid up to %d, want %d", name, valid, want)
		}
	}
	for n := len(head); n <= len(whole); n++ {
		check(t, "truncated", whole[:n])
	}
	for at := len(head); at < len(whole); at++ {
		for _, mask := range []byte{0x01, 0x80, 0xff} {
			content := bytes.Clone(whole)
			content[at] ^= mask
			check(t, "flipped", content)
		}
	}
}

func TestResyncFindsFramesBehindDamage(t *testing.T) {
	whole := encodeFrames(sampleFrames...)
	second := len(encodeFrames(sampleFrames[0]))
	allButLast := sampleFrames[:len(sampleFrames)-1]
	for _, test := range []struct {
		name    string
		content []byte
		want    []Frame
	}{
		{"flipped payload", flip(whole, second-1), sampleFrames[1:]},
		{"flipped length", flip(whole, len(head)+12), sampleFrames[1:]},
		{"two damaged", flip(flip(whole, len(head)), second), sampleFrames[2:]},
		{"garbage between", slices.Concat(whole[:second], []byte("SJSJ\x01"), whole[second:]), sampleFrames},
		{"last one torn", whole[:len(whole)-1], allButLast},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, valid := scanned(t, journalFileOf(t, test.content), true)
			if diff := cmp.Diff(test.want, got, sameBytes); diff != "" {
				t.Errorf("frames (-want +got):\n%s", diff)
			}
			if test.name == "last one torn" && valid != int64(len(encodeFrames(allButLast...))) {
				t.Errorf("valid up to %d", valid)
			}
		})
	}
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0xff
	return b
}

func TestScanOfNothing(t *testing.T) {
	f := journalFileOf(t, []byte(head[:3]))
	for _, end := range []int64{-1, 0, 3, 8} {
		valid, err := (&Journal{f: f}).Scan(t.Context(), 8, end, true, func(int64, Frame) error { return errors.New("a frame") })
		if err != nil || valid != 8 {
			t.Errorf("to %d: valid up to %d, %v", end, valid, err)
		}
	}
}

func TestJournalHeads(t *testing.T) {
	frames := string(encodeFrames(Frame{Kind: KindOutput, Payload: []byte("x")}))
	for _, test := range []struct {
		name, content string
		ok            bool
	}{
		{"damaged", string(flip([]byte(frames), 3)), true},
		{"empty", "", true}, // cut off, and mended by recovery
		{"cut off", head[:5], true},
		{"whole", head, true},
		{"other version", "STOKERJ9", false},
		{"something else", "{}\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			j, err := Open(durable.Local{}, journalFileOf(t, []byte(test.content)).Name(), os.O_RDWR)
			if (err == nil) != test.ok {
				t.Fatalf("error %v", err)
			}
			if err != nil {
				return
			}
			defer j.Close()
			must(t, j.MendHead())
			want := head + test.content[min(len(head), len(test.content)):]
			if got, _ := os.ReadFile(j.f.Name()); string(got) != want || j.size != int64(len(want)) {
				t.Errorf("mended to %q, offset %d", got, j.size)
			}
		})
	}
}

// A full disk is a pause: nothing that was appended is lost, and nothing of a failed write stays.
func TestFullDiskKeepsFrames(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	must(t, Create(durable.Local{}, path))
	j, err := Open(durable.Local{}, path, os.O_RDWR)
	must(t, err)
	defer j.Close()
	good := j.f
	full, err := durable.Local{}.OpenFile("/dev/full", os.O_RDWR, 0)
	must(t, err)
	defer full.Close()

	must(t, j.Append(sampleFrames[0]))
	j.f = full
	if err := j.Flush(); err == nil {
		t.Fatal("wrote to a full disk")
	}
	if err := j.AppendNow(sampleFrames[1]); err == nil {
		t.Fatal("wrote to a full disk")
	}
	j.f = good
	must(t, j.AppendNow(sampleFrames[2]))
	got, _ := scanned(t, good, false)
	if diff := cmp.Diff([]Frame{sampleFrames[0], sampleFrames[2]}, got, sameBytes); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestFrameCacheSurvivesAnyOffset(t *testing.T) {
	content := encodeFrames(sampleFrames...)
	f := journalFileOf(t, content)
	frames := Reader{f: f, end: int64(len(content))}
	for _, at := range []int64{8, -1, 0, 9, int64(len(content)), 1 << 40, 1<<63 - 1, -1 << 63, 8} {
		if _, err := frames.Read(at); (err == nil) != (at == 8) {
			t.Errorf("at %d: %v", at, err)
		}
	}
}
