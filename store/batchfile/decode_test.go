package batchfile

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"slices"
	"testing"
)

func TestCompressionOf(t *testing.T) {
	for name, want := range map[string]struct {
		unpacked string
		c        Compression
	}{
		"x.jsonl":        {"x.jsonl", Plain},
		"x.jsonl.gz":     {"x.jsonl", Gzip},
		"x.JSONL.Zst":    {"x.JSONL", Zstd},
		"x.gz.zst":       {"x.gz", Zstd},
		".gz":            {"", Gzip},
		"gz":             {"gz", Plain},
		"":               {"", Plain},
		"x.jsonl.gz.bak": {"x.jsonl.gz.bak", Plain},
	} {
		if unpacked, c := CompressionOf(name); unpacked != want.unpacked || c != want.c {
			t.Errorf("%q is %q, %q", name, unpacked, c)
		}
	}
}

// FuzzDecode unpacks arbitrary bytes as a compressed stream: it ends, with what it holds or with an error that says
// whether more may come.
func FuzzDecode(f *testing.F) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte("{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n")); err != nil || z.Close() != nil {
		f.Fatal(err)
	}
	gz := b.Bytes()
	f.Add(gz, false)
	f.Add(gz[:len(gz)-3], false)
	f.Add(slices.Concat(gz, gz), false)
	f.Add(append(bytes.Clone(gz), "trailing"...), false)
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x00\x41\x00\x00hello\x0a\x00\x00\x00\x00"), true)
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\xff"), true)
	f.Fuzz(func(t *testing.T, packed []byte, isZstd bool) {
		c := Gzip
		if isZstd {
			c = Zstd
		}
		r, err := Decode(bytes.NewReader(packed), c)
		if err == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(r, 1<<24))
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if corrupt, ok := errors.AsType[*StreamError](err); err != nil && (!ok || corrupt.Error() == "") {
			t.Fatalf("%q: %v", packed, err)
		}
	})
}
