package main

import (
	"fmt"
	"io"
	"time"

	"stoker/daemon/api"
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

func (p *progress) show(s *api.Status) {
	if p.w == nil {
		return
	}
	p.shown = true
	fmt.Fprint(p.w, eraseLine+progressText(s))
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.w, eraseLine)
		p.shown = false
	}
}

func progressText(s *api.Status) string {
	if e := s.Engine; e != nil && e.State != engine.Ready {
		return fmt.Sprintf("engine %s %s (%s)", e.State, e.Phase, time.Since(e.Since).Round(time.Second))
	}
	if s.Dispatch == nil || len(s.Dispatch.Running) == 0 {
		return "waiting for the batch to begin"
	}
	text := runningText(&s.Dispatch.Running[0])
	if n := len(s.Dispatch.Running); n > 1 {
		text += fmt.Sprintf(" (and %d more)", n-1)
	}
	return text
}
