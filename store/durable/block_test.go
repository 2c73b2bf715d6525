package durable

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// countedFile counts the bytes that are read of it.
type countedFile struct {
	Source
	bytes, reads int
}

func (f *countedFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.Source.ReadAt(b, at)
	f.bytes += n
	f.reads++
	return n, err
}

// A block serves reads in about the order of the file, and does not multiply those in any other.
func TestBlockReads(t *testing.T) {
	const lines, length = 20000, 1000
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	must(t, err)
	defer f.Close()
	text := make([]byte, lines*length)
	for i := range lines {
		binary.LittleEndian.PutUint32(text[i*length:], uint32(i))
	}
	_, err = f.Write(text)
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	inOrder := make([]int, lines)
	nearly := make([]int, lines)
	for i := range lines {
		inOrder[i], nearly[i] = i, min(lines-1, i+random.IntN(300))
	}
	for name, order := range map[string][]int{"in order": inOrder, "nearly": nearly, "random": random.Perm(lines)} {
		var b Block
		counted := &countedFile{Source: f}
		for _, i := range order {
			got, err := b.Read(counted, int64(i)*length, length)
			must(t, err)
			if len(got) != length || binary.LittleEndian.Uint32(got) != uint32(i) {
				t.Fatalf("%s: read another line than %d", name, i)
			}
		}
		most := map[string]int{"in order": 1, "nearly": 2, "random": 2}[name] * len(text)
		t.Logf("%s: read %.1f times", name, float64(counted.bytes)/float64(len(text)))
		if counted.bytes > most+blockSize {
			t.Errorf("%s: read %d bytes of a file of %d", name, counted.bytes, len(text))
		}
	}
}

// One jump does not make what follows in order dear.
func TestBlockReadsAfterAJump(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(path, make([]byte, 8<<20), 0o600))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	counted := &countedFile{Source: f}
	var b Block
	read := func(from, to int64) {
		for i := from; i < to; i++ {
			_, err := b.Read(counted, i*32, 32)
			must(t, err)
		}
	}
	read(0, 1000)
	read(200000, 200001)
	counted.reads = 0
	read(1000, 40000)
	if counted.reads > 20 {
		t.Errorf("the file was read %d times", counted.reads)
	}
}
