// Package protocol holds what both ends of a worker's pipes need to speak PROTOCOL.md.
package protocol

import (
	"io"
	"sync"
)

// Version is the version of PROTOCOL.md that stoker speaks.
const Version = 1

// RequestPrefix begins the requests, which go by the thousand: they are picked apart without a JSON decoder.
const RequestPrefix = `{"type":"request","key":`

// Writer hands messages to a pipe, as many at once as have gathered.
type Writer struct {
	mu     sync.Mutex
	queue  []byte // not yet written
	closed bool
	wake   chan struct{}
	done   chan struct{}
}

// NewWriter returns one that writes until Close, or until an error: what is sent then goes nowhere.
func NewWriter(w io.Writer) *Writer {
	p := &Writer{wake: make(chan struct{}, 1), done: make(chan struct{})}
	go p.run(w)
	return p
}

// Send queues the messages that add appends. It never blocks: what is in flight is bounded by the capacity.
func (p *Writer) Send(add func([]byte) []byte) {
	p.mu.Lock()
	p.queue = add(p.queue)
	p.mu.Unlock()
	p.notify()
}

// Close waits until all that was sent is written.
func (p *Writer) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.notify()
	<-p.done
}

func (p *Writer) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// keepBuffer is how large a buffer may be to be used again, in bytes.
const keepBuffer = 1 << 20

func (p *Writer) run(w io.Writer) {
	defer close(p.done)
	var out []byte
	for range p.wake {
		if cap(out) > keepBuffer {
			out = nil
		}
		p.mu.Lock()
		out, p.queue = p.queue, out[:0]
		closed := p.closed
		p.mu.Unlock()
		if len(out) > 0 {
			if _, err := w.Write(out); err != nil {
				return
			}
		}
		if closed {
			return
		}
	}
}
