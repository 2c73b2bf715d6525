package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"stoker/engine"
)

// worker is an engine without a process: it answers each request with its own text, late and in any order, sometimes
// twice, and dies now and then.
type worker struct {
	mu       sync.Mutex // of what follows, but for the channels
	rand     *rand.Rand
	events   chan engine.Event
	submit   chan []engine.Request
	stop     chan struct{}
	done     chan struct{}
	capacity int
	dieEvery int // one answer in so many kills it instead; 0: none does
	deaths   int
	lost     int64       // requests that were in flight at deaths
	answered []time.Time // when, lately

	flights []flight
	pending []engine.Event
}

// flight is a request that is to be answered.
type flight struct {
	key  engine.Key
	text string
	due  time.Time
}

// poison is what brings the worker down whenever it has to answer it.
const poison = "poison"

func startWorker(r *rand.Rand, dieEvery int) *worker {
	w := &worker{
		rand: rand.New(rand.NewPCG(r.Uint64(), 2)), events: make(chan engine.Event), submit: make(chan []engine.Request), stop: make(chan struct{}), done: make(chan struct{}),
		capacity: 1 + r.IntN(12), dieEvery: dieEvery,
	}
	w.load()
	go w.run()
	return w
}

func (w *worker) load() {
	w.pending = append(w.pending, engine.Capacity{InFlight: w.capacity, Model: "simulated", Version: "1"})
}

// Submit implements dispatch.Engine.
func (w *worker) Submit(r []engine.Request) {
	select {
	case w.submit <- r:
	case <-w.done:
	}
}

// Events implements dispatch.Engine.
func (w *worker) Events() <-chan engine.Event { return w.events }

// end stops the worker.
func (w *worker) end() {
	close(w.stop)
	<-w.done
}

func (w *worker) run() {
	defer close(w.done)
	defer close(w.events)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var out chan<- engine.Event
		var next engine.Event
		if len(w.pending) > 0 {
			out, next = w.events, w.pending[0]
		}
		select {
		case <-w.stop:
			return
		case out <- next:
			w.pending = w.pending[1:]
		case requests := <-w.submit:
			w.accept(requests)
		case <-timer.C:
			w.answer()
		}
		timer.Reset(w.untilNext())
	}
}

// accept gives each request a time of its own, so that no two answers are due at once.
func (w *worker) accept(requests []engine.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range requests {
		delay := time.Duration(w.rand.Int64N(int64(3*time.Second))) | 1
		w.flights = append(w.flights, flight{r.Key, textOf(r), time.Now().Add(delay)})
	}
	slices.SortStableFunc(w.flights, func(a, b flight) int { return a.due.Compare(b.due) })
}

func (w *worker) untilNext() time.Duration {
	if len(w.flights) == 0 {
		return time.Hour
	}
	return max(0, time.Until(w.flights[0].due))
}

// answer answers what is due, or dies of it.
func (w *worker) answer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var answers engine.Answers
	for len(w.flights) > 0 && !w.flights[0].due.After(time.Now()) {
		f := w.flights[0]
		if strings.Contains(f.text, poison) || w.diesByChance() {
			w.die()
			break
		}
		w.flights = w.flights[1:]
		w.answered = append(w.answered, time.Now())
		for range 1 + w.rand.IntN(20)/19 { // at least once is all that is promised
			answers = append(answers, engine.Answer{Key: f.key, Status: 200, Body: response(f.text)})
		}
	}
	if len(answers) > 0 {
		w.pending = append(w.pending, answers)
	}
}

// maxChance is how often a life's worker dies by chance at most: one more, and a request could be given up without being
// at fault.
const maxChance = 1

func (w *worker) diesByChance() bool {
	return w.dieEvery > 0 && w.deaths < maxChance && w.rand.IntN(w.dieEvery) == 0
}

// die loses what is in flight, and loads again.
func (w *worker) die() {
	w.deaths++
	w.lost += int64(len(w.flights))
	lost := engine.Lost{Blamed: true, Reason: "the simulated worker died"}
	for _, f := range w.flights {
		lost.Keys = append(lost.Keys, f.key)
	}
	w.flights = nil
	w.pending = append(w.pending, engine.Capacity{}, lost)
	w.load()
}

// textOf is a request's prompt, or its last message.
func textOf(r engine.Request) string {
	var body struct {
		Prompt   string
		Messages []struct{ Content string }
	}
	if err := json.Unmarshal(r.Body, &body, json.MatchCaseInsensitiveNames(true)); err != nil {
		return err.Error()
	}
	if n := len(body.Messages); n > 0 {
		return body.Messages[n-1].Content
	}
	return body.Prompt
}

func response(text string) []byte {
	quoted, _ := json.Marshal(text)
	return fmt.Appendf(nil, `{"id":"x","object":"chat.completion","model":"simulated","choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`, quoted)
}

// unsynced is how long an answer may take at most to become durable: a commit each second, behind one that is under way.
const unsynced = 3 * time.Second

// atRisk is how many requests a crash now may make run again: those that it may hold, and those that it answered since. It
// is called when the worker has come to its end, or waits.
func (w *worker) atRisk(since time.Time) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := int64(w.capacity)
	for _, at := range w.answered {
		if at.After(since) {
			n++
		}
	}
	return n
}
