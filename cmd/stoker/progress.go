package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"stoker/daemon/api"
	"stoker/daemon/dispatch"
	"stoker/engine"
)

// progress is one line on a terminal that is written over and over. Elsewhere it shows nothing.
type progress struct {
	w     io.Writer
	shown bool
}

func newProgress(w io.Writer) *progress {
	if !isTerminal(w) {
		w = nil
	}
	return &progress{w: w}
}

const eraseLine = "\r\x1b[2K"

// show shows how far the batches are, those of the files that are waited for.
func (p *progress) show(s *api.Status, batches []api.Batch) {
	if p.w == nil {
		return
	}
	p.shown = true
	fmt.Fprint(p.w, eraseLine+progressText(s, batches))
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, eraseLine)
		p.shown = false
	}
}

func progressText(s *api.Status, batches []api.Batch) string {
	if e := s.Engine; e != nil && e.State != engine.Ready {
		return fmt.Sprintf("engine %s %s (%s)", e.State, e.Phase, time.Since(e.Since).Round(time.Second))
	}
	var ours []dispatch.Running
	if s.Dispatch != nil {
		for _, r := range s.Dispatch.Running {
			if slices.ContainsFunc(batches, func(b api.Batch) bool { return b.ID == r.ID }) {
				ours = append(ours, r)
			}
		}
	}
	if len(ours) == 0 {
		return "waiting for the batch to begin"
	}
	text := runningText(&ours[0])
	if n := len(ours); n > 1 {
		text += fmt.Sprintf(" (and %d more)", n-1)
	}
	return text
}
