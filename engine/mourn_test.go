package engine

import (
	"testing"
	"time"
)

func TestNextPause(t *testing.T) {
	s := &supervisor{}
	s.state.State = Loading
	bound := minBackOff
	for range 12 {
		if d := s.nextPause(); d < bound/2 || d > bound {
			t.Errorf("pause is %s, want %s to %s", d, bound/2, bound)
		}
		bound = min(2*bound, maxBackOff)
	}
	s.state.State, s.state.Since, s.life.fed = Ready, time.Now(), true
	if d := s.nextPause(); d != quickRestart {
		t.Errorf("pause after work is %s, want %s", d, quickRestart)
	}
	s.life.fed = false
	if d := s.nextPause(); d > minBackOff {
		t.Errorf("first pause after work is %s, want at most %s", d, minBackOff)
	}
}
