package engine

import (
	"context"
	"sync"
)

// turns let replicas that share GPUs load one after another, once nothing of their former workers lives. vLLM asks for its share
// of the memory to be free when it begins, and takes what others allocate or free while it loads for its own doing.
type turns struct {
	mu      sync.Mutex
	last    map[string]*turn // by the GPUs that are shared
	unclear int              // replicas whose former workers may live
	clear   chan struct{}    // closed when there are none
}

func newTurns(replicas int) *turns {
	return &turns{last: map[string]*turn{}, unclear: replicas, clear: make(chan struct{})}
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
	over    context.Context
	end     context.CancelFunc
}

// take begins a replica's turn, unless another's is not over: then it returns that one.
func (t *turns) take(gpus string, replica int) (mine, before *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := t.last[gpus]; last != nil && last.over.Err() == nil {
		return nil, last
	}
	mine = &turn{replica: replica}
	mine.over, mine.end = context.WithCancel(context.Background())
	t.last[gpus] = mine
	return mine, nil
}
