package engine

import (
	"context"
	"slices"
	"sync"
	"time"
)

// turns let replicas that share GPUs load one after another, once nothing of their former workers lives. vLLM asks for its share
// of the memory to be free when it begins, and takes what others allocate or free while it loads for its own doing.
type turns struct {
	mu      sync.Mutex
	queues  map[string][]*turn // by the GPUs that are shared; first come, first served
	unclear int                // replicas whose former workers may live
	clear   chan struct{}      // closed when there are none
}

func newTurns(replicas int) *turns {
	return &turns{queues: map[string][]*turn{}, unclear: replicas, clear: make(chan struct{})}
}

// cleared takes down that the former workers of one more replica are gone.
func (t *turns) cleared() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unclear--; t.unclear == 0 {
		close(t.clear)
	}
}

// await returns when done is closed, or ctx is over.
func await(ctx context.Context, done <-chan struct{}) {
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// turn is a replica's time to load. It ends with the worker being ready or gone, or not getting any further.
type turn struct {
	replica int
	gpus    string
	over    context.Context
	end     context.CancelFunc
	stall   *time.Timer // ends it if there is no worker in time
}

// join has a replica wait for its turn.
func (t *turns) join(gpus string, replica int) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	mine := &turn{replica: replica, gpus: gpus}
	mine.over, mine.end = context.WithCancel(context.Background())
	t.queues[gpus] = append(t.queues[gpus], mine)
	return mine
}

// current is the turn that has come, of those that are not over, of which there must be one.
func (t *turns) current(gpus string) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queues[gpus] = slices.DeleteFunc(t.queues[gpus], func(one *turn) bool { return one.over.Err() != nil })
	return t.queues[gpus][0]
}

// was reports whether it is, or was, a turn to load on these GPUs.
func (t *turn) was(gpus string) bool { return t != nil && t.gpus == gpus }
