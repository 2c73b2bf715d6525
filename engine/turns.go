package engine

import (
	"context"
	"sync"
)

// turns let replicas that share GPUs load one after another. vLLM asks for its share of the memory to be free when it begins,
// and takes what others allocate or free while it loads for its own doing.
type turns struct {
	mu   sync.Mutex
	last map[string]*turn // by the GPUs that are shared
}

// turn is a replica's time to load. It ends with the worker being ready or gone.
type turn struct {
	replica int
	over    chan struct{}
	end     func()
}

// take begins a replica's turn, unless another's is not over: then it returns that one.
func (t *turns) take(gpus string, replica int) (mine, before *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := t.last[gpus]; last != nil && !last.isOver() {
		return nil, last
	}
	over := make(chan struct{})
	mine = &turn{replica: replica, over: over, end: sync.OnceFunc(func() { close(over) })}
	if t.last == nil {
		t.last = map[string]*turn{}
	}
	t.last[gpus] = mine
	return mine, nil
}

func (t *turn) isOver() bool {
	select {
	case <-t.over:
		return true
	default:
		return false
	}
}

// wait returns when the turn is over, or ctx is.
func (t *turn) wait(ctx context.Context) {
	select {
	case <-t.over:
	case <-ctx.Done():
	}
}
