package engine

import (
	"testing"

	"pgregory.net/rapid"
)

func TestPlacesFollowTheEngine(t *testing.T) {
	for name, c := range map[string]struct {
		now, running, waiting int
		cache                 float64
		want                  int
	}{
		"idle":                            {320, 0, 0, 0, 320},
		"the batch is full":               {320, 256, 64, 0.5, 320},
		"prompts are computed":            {320, 40, 280, 0.1, 320},
		"the cache is full":               {320, 40, 280, 0.95, 50},
		"the cache is full, few run":      {320, 2, 318, 0.99, 6},
		"as it is to be":                  {50, 40, 10, 0.95, 50},
		"some ended":                      {50, 36, 9, 0.95, 45},
		"all that wait found room":        {50, 50, 0, 0.95, 100},
		"all that wait found room, twice": {300, 256, 0, 0.95, 320},
		"nearly all found room":           {50, 46, 4, 0.95, 100},
		"the cache has room again":        {50, 50, 0, 0.6, 320},
		"one that took much has ended":    {21, 256, 64, 0.5, 320},
		"many ended together":             {50, 10, 40, 0.3, 50},
	} {
		p := newPlaces(256, 0)
		p.now = c.now
		if p.follow(c.running, c.waiting, c.cache); p.now != c.want {
			t.Errorf("%s: %d places, want %d", name, p.now, c.want)
		}
	}
	p := newPlaces(256, 7)
	if p.follow(2, 5, 1); p.now != 7 {
		t.Errorf("configured places are %d, want 7", p.now)
	}
}

// An engine whose room changes from time to time is never without work for long, and once its room stays, what waits in it is
// little.
func TestPlacesStarveNoEngine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const batch = 256
		p := newPlaces(batch, 0)
		held := 0 // what the engine holds: it is filled up at once, and what it holds too much ends
		for range rapid.IntRange(1, 10).Draw(t, "changes") {
			room := rapid.IntRange(1, batch).Draw(t, "room for")
			cache := rapid.Float64Range(cacheFull-0.3, 1).Draw(t, "cache")
			for second := range 20 {
				held = max(p.now, held-room)
				running := min(room, held)
				if second > 8 && running < room {
					t.Fatalf("%d run in room for %d in second %d: %d places", running, room, second, p.now)
				}
				if waiting := held - running; cache >= cacheFull && second > 10 && held == p.now && waiting > max(fewWaiting, room/4) {
					t.Fatalf("%d wait while %d run, in second %d", waiting, running, second)
				}
				p.follow(running, held-running, cache)
			}
		}
	})
}

// What the worker says of itself changes how much it is given.
func TestCapacityFollowsStats(t *testing.T) {
	s := supervise(t, options(t, script(t, `echo "$hello" >&4; echo "$ready" >&4
echo '{"type":"stats","running":3,"waiting":7,"kv_cache":0.95,"steps":1}' >&4
echo '{"type":"stats","running":3,"waiting":4,"kv_cache":0.95,"steps":2}' >&4
echo '{"type":"stats","running":7,"waiting":0,"kv_cache":0.25,"steps":3}' >&4
serve`)))
	whole := ready(t, s)
	for _, want := range []int{7, whole.InFlight} {
		if c := nextOf[Capacity](t, s); c.InFlight != want || c.Model != whole.Model {
			t.Errorf("capacity is %+v, want %d in flight", c, want)
		}
	}
	if st := s.Status(); st.Capacity != whole.InFlight {
		t.Errorf("status has %d places, want %d", st.Capacity, whole.InFlight)
	}
}

// What a worker said of itself before it ended gives it no places.
func TestDeadEngineHasNoCapacity(t *testing.T) {
	s := supervise(t, options(t, script(t, `echo "$hello" >&4; echo "$ready" >&4
echo '{"type":"fatal","cause":"internal","permanent":true,"message":"it is over"}' >&4
while :; do echo '{"type":"stats","running":3,"waiting":7,"kv_cache":0.95,"steps":1}' >&4; done`)))
	ready(t, s)
	for nextOf[Capacity](t, s).InFlight != 0 {
	}
	if st := waitFor(t, s, Failed); st.Capacity != 0 {
		t.Errorf("a worker that failed has %d places", st.Capacity)
	}
	select {
	case ev := <-s.Events():
		t.Errorf("then comes %+v", ev)
	default:
	}
}
