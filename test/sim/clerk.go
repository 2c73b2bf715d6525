package sim

import (
	"time"

	"stoker/daemon/outbox"
	"stoker/store"
)

// clerk tells the outbox now and then what NAME.status.txt is to say of each batch.
type clerk struct {
	stop chan struct{}
	done chan struct{}
}

// notesEvery is shorter than what stoker has it at, so that notes meet more of what happens.
const notesEvery = 11*time.Second + 1

func startClerk(s *store.Store, out *outbox.Publisher) *clerk {
	c := &clerk{make(chan struct{}), make(chan struct{})}
	go c.run(s, out)
	return c
}

func (c *clerk) run(s *store.Store, out *outbox.Publisher) {
	defer close(c.done)
	tick := time.NewTicker(notesEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		if records, err := s.List(); err == nil { // else the line fails of it, too
			out.SetNotes(notesOf(records))
		}
	}
}

func notesOf(records []*store.Record) (notes []outbox.Note) {
	for _, r := range records {
		if !r.State.Ended() {
			notes = append(notes, outbox.Note{Queue: r.Queue, Name: r.Name, ID: r.ID, State: r.State, Total: r.Requests})
		}
	}
	return notes
}

func (c *clerk) end() {
	close(c.stop)
	<-c.done
}
