package engine

import "math"

// places decides how many requests a worker is to hold. An engine whose KV cache is full runs fewer than its batch size, and the
// rest waits inside it: more throughput comes of it only as long as some wait, while a small file that arrives later has
// to wait for all of them, and a crash takes them all back.
type places struct {
	most  int  // what keeps the largest batch busy
	fixed bool // by the configuration
	now   int
}

const (
	// cacheFull is the share of the KV cache from which on it may be what keeps requests waiting: the prompt that comes next may
	// need much of the rest. Below it they wait for their prompts to be computed, or the batch is full, or some just ended.
	cacheFull = 0.8
	// fewWaiting are the requests that wait at least beside those that run, so that none is missing where some end together.
	fewWaiting = 4
)

// newPlaces returns those of an engine that runs batchSize requests at most; configured ones, if not 0, stay as they are.
func newPlaces(batchSize, configured int) places {
	if configured > 0 {
		return places{most: configured, fixed: true, now: configured}
	}
	most := max(1, int(math.Ceil(1.25*float64(batchSize))))
	return places{most: most, now: most}
}

// follow takes what the engine does with what it holds: cache is the share of its KV cache in use.
func (p *places) follow(running, waiting int, cache float64) {
	reserve := max(fewWaiting, running/4)
	enough := min(p.most, running+reserve)
	switch {
	case p.fixed:
	case waiting == 0 && cache < cacheFull:
		p.now = p.most
	case waiting < reserve/2: // it took more than was foreseen, and may take more yet
		p.now = min(p.most, 2*p.now)
	case cache >= cacheFull:
		p.now = enough
	default:
		p.now = max(p.now, enough)
	}
}
