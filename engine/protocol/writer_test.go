package protocol

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// All that is sent is written in order before Close returns, also to a pipe that nobody reads at first.
func TestWriter(t *testing.T) {
	r, out := io.Pipe()
	w := NewWriter(out)
	var want []byte
	for i := range 1000 {
		want = fmt.Appendf(want, "%d\n", i)
		w.Send(func(b []byte) []byte { return fmt.Appendf(b, "%d\n", i) })
	}
	go func() {
		w.Close()
		out.Close()
	}()
	if got, err := io.ReadAll(r); !bytes.Equal(got, want) || err != nil {
		t.Errorf("read %d bytes, %v, want %d", len(got), err, len(want))
	}
}

// A pipe whose reader is gone keeps nobody.
func TestWriterToNobody(t *testing.T) {
	r, out := io.Pipe()
	w := NewWriter(out)
	r.Close()
	for range 3 {
		w.Send(func(b []byte) []byte { return append(b, "x\n"...) })
	}
	w.Close()
}
