package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// garage is a folder in which workers load until they are told what becomes of them. It notices when two load at a time.
type garage struct {
	t   *testing.T
	dir string
}

func newGarage(t *testing.T) *garage { return &garage{t, t.TempDir()} }

// worker leaves a trace of itself while it loads; one that is killed leaves it behind. Once it is ready it answers.
func (g *garage) worker() Launch {
	l := script(g.t, `cd `+g.dir+`
other=$(cat loading 2>/dev/null) && kill -0 $other 2>/dev/null && touch two
echo $$ > loading
echo "$hello" >&4
until mv told-$$ now-$$ 2>/dev/null; do sleep 0.01; done
rm loading
case $(cat now-$$) in
ready) echo "$ready" >&4;;
fatal) echo '{"type":"fatal","cause":"bad_argument","permanent":true,"message":"never"}' >&4; exit 1;;
esac
while read -r line <&3; do
	key=${line#*'"key":'}
	case $line in
	*'"type":"request"'*) echo '{"type":"result","key":'${key%%,*}',"status":200,"body":{}}' >&4;;
	*'"type":"stop"'*) exit;;
	esac
done`)
	l.SharedGPUs = "0"
	return l
}

// tell says what becomes of the worker that loads.
func (g *garage) tell(pid int, word string) {
	g.t.Helper()
	unfinished := filepath.Join(g.dir, "word")
	err := os.WriteFile(unfinished, []byte(word), 0o600)
	if err := errors.Join(err, os.Rename(unfinished, filepath.Join(g.dir, fmt.Sprintf("told-%d", pid)))); err != nil {
		g.t.Fatal(err)
	}
}

// check fails if ever two workers loaded at a time.
func (g *garage) check() {
	g.t.Helper()
	if _, err := os.Stat(filepath.Join(g.dir, "two")); err == nil {
		g.t.Error("two workers loaded at a time")
	}
}

// start starts replicas with these launches, of which there are several.
func start(t *testing.T, launches ...Launch) *replicas {
	t.Helper()
	o := options(t, Launch{})
	o.Prepare = func(_ context.Context, replica int) (Launch, error) { return launches[replica-1], nil }
	r, err := Start(o, len(launches))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Kill()
		if left, err := r.Leftovers(); len(left) > 0 || err != nil {
			t.Errorf("processes %v are alive after Kill: %v", left, err)
		}
	})
	return r.(*replicas)
}

// waitForLoading waits until one replica loads, all others that can run wait for it, and some are ready; it returns its index.
func waitForLoading(t *testing.T, r *replicas, waiting, readyOnes int) (loading int) {
	t.Helper()
	var all []Status
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		all = r.Status().Replicas
		loading = -1
		for i := range all {
			if all[i].State == Loading {
				loading = i
			}
		}
		if count(all, func(s *Status) bool { return s.State == Ready }) == readyOnes && count(all, waitsFor(loading+1)) == waiting && loading >= 0 {
			return loading
		}
	}
	t.Fatalf("not %d replicas wait for one that loads while %d are ready: %+v", waiting, readyOnes, all)
	return 0
}

func waitsFor(replica int) func(*Status) bool {
	return func(s *Status) bool {
		return s.State == Starting && s.Phase == WaitPhase && s.Detail == fmt.Sprintf("for replica %d to load", replica) && s.PID == 0
	}
}

func count(all []Status, so func(*Status) bool) (n int) {
	for i := range all {
		if so(&all[i]) {
			n++
		}
	}
	return n
}

func pidOf(r *replicas, i int) int { return r.Status().Replicas[i].PID }

// Replicas of one GPU load one after another, and those that have loaded answer meanwhile.
func TestLoadingInTurn(t *testing.T) {
	g := newGarage(t)
	r := start(t, g.worker(), g.worker(), g.worker())
	for n := range 3 {
		loading := waitForLoading(t, r, 2-n, n)
		if n > 0 {
			r.Submit(chats(n, 1))
			answers(t, r, 1)
		}
		g.tell(pidOf(r, loading), "ready")
		allReady(t, r, 10*(n+1))
	}
	for _, one := range r.Status().Replicas[:2] {
		syscall.Kill(one.PID, syscall.SIGKILL)
	}
	for n := range 2 {
		g.tell(pidOf(r, waitForLoading(t, r, 1-n, n+1)), "ready")
	}
	allReady(t, r, 30)
	g.check()
}

// A replica that dies while it loads, for now or for good, hands its turn on.
func TestDeathWhileLoading(t *testing.T) {
	g := newGarage(t)
	r := start(t, g.worker(), g.worker(), g.worker())
	first := waitForLoading(t, r, 2, 0)
	syscall.Kill(pidOf(r, first), syscall.SIGKILL)
	second := waitForOther(t, r, first)
	g.tell(pidOf(r, second), "fatal")
	waitForReplica(t, r, second, Failed)
	for n := range 2 {
		g.tell(pidOf(r, waitForLoading(t, r, 1-n, n)), "ready")
	}
	allReady(t, r, 20)
	g.check()
}

// waitForOther waits until the one that died waits for another that loads; it returns its index.
func waitForOther(t *testing.T, r *replicas, dead int) int {
	t.Helper()
	for {
		if loading := waitForLoading(t, r, 2, 0); loading != dead {
			return loading
		}
	}
}

// One that shares its GPU is told that this may be why there is too little memory.
func TestShortageOfASharedGPU(t *testing.T) {
	launch := script(t, `echo "$hello" >&4
echo '{"type":"fatal","cause":"gpu_memory","message":"No available memory for the cache blocks","hint":"lower it"}' >&4; exit 1`)
	for gpus, want := range map[string]string{"": "lower it", "0": "lower it; " + sharedHint} {
		launch.SharedGPUs = gpus
		o := options(t, launch)
		o.turns, o.cleared = newTurns(1), nil
		o.turns.cleared()
		if st := waitFor(t, supervise(t, o), BackOff); st.Hint != want {
			t.Errorf("with GPUs %q shared the hint is %q, want %q", gpus, st.Hint, want)
		}
	}
}

// Only replicas of the same GPUs wait for each other.
func TestTurnsAreOfGPUs(t *testing.T) {
	for name, c := range map[string]struct {
		gpus    [3]string
		loading int
	}{
		"none": {[3]string{"", "", ""}, 3}, "two for three": {[3]string{"0", "1", "0"}, 2}, "one each": {[3]string{"0,1", "2,3", ""}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			var launches []Launch
			for _, gpus := range c.gpus {
				l := rehearsal(map[string]any{"load_delay": "1h"})
				l.SharedGPUs = gpus
				launches = append(launches, l)
			}
			r := start(t, launches...)
			var all []Status
			for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				all = r.Status().Replicas
				loading := count(all, func(s *Status) bool { return s.State == Loading && s.Phase == "loading" })
				waiting := count(all, func(s *Status) bool { return s.Phase == WaitPhase })
				if loading == c.loading && waiting == len(all)-loading {
					return
				}
			}
			t.Errorf("not %d load and the others wait: %+v", c.loading, all)
		})
	}
}

// Neither end waits for whoever loads, and requests that come to one that waits come back.
func TestStopWhileWaiting(t *testing.T) {
	for name, end := range map[string]func(Engine){"stop": Engine.Stop, "kill": Engine.Kill} {
		t.Run(name, func(t *testing.T) {
			l := rehearsal(map[string]any{"load_delay": "1h"})
			l.SharedGPUs = "0"
			r := start(t, l, l)
			loading := waitForLoading(t, r, 1, 0)
			waiting := r.all[1-loading].Engine
			waiting.Submit(chats(1, 1))
			if lost := nextOf[Lost](t, r); lost.Blamed {
				t.Errorf("lost %+v", lost)
			}
			end(waiting)
			if st := waiting.Status(); st.State != Stopped || st.Phase != "" {
				t.Errorf("status is %+v", st)
			}
			if st := r.Status().Replicas[loading]; st.State != Loading {
				t.Errorf("the one that loads is %+v", st)
			}
			end(r)
		})
	}
}

// None loads while former workers of another replica may still have the memory.
func TestNoTurnBesideFormerWorkers(t *testing.T) {
	l := rehearsal(nil)
	l.SharedGPUs = "0"
	o := options(t, l)
	o.turns = newTurns(2)
	o.cleared = sync.OnceFunc(o.turns.cleared)
	own := make(chan struct{})
	prepare, prepared := o.Prepare, sync.OnceFunc(func() { close(own) })
	o.Prepare = func(ctx context.Context, replica int) (Launch, error) {
		prepared()
		return prepare(ctx, replica)
	}
	s := supervise(t, o)
	<-own // after its own sweep
	for range 50 {
		time.Sleep(time.Millisecond)
		if st := s.Status(); st.State != Starting || st.PID != 0 {
			t.Fatalf("it loads: %+v", st)
		}
	}
	o.turns.cleared()
	waitFor(t, s, Ready)
}

// One that prints something for ever, and gets no further, does not keep the others from loading.
func TestTurnOfOneThatGetsNoFurther(t *testing.T) {
	stuck := script(t, `echo "$hello" >&4; while :; do echo 'No available shared memory broadcast block found in 60 seconds'; sleep 0.05; done`)
	healthy := script(t, `echo "$hello" >&4; echo "$ready" >&4; serve`)
	stuck.SharedGPUs, healthy.SharedGPUs = "0", "0"
	o := options(t, Launch{})
	o.LoadStall = 300 * time.Millisecond
	first := make(chan struct{})
	var once sync.Once
	o.Prepare = func(_ context.Context, replica int) (Launch, error) {
		if replica == 1 {
			once.Do(func() { close(first) })
			return stuck, nil
		}
		<-first
		return healthy, nil
	}
	r, err := Start(o, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Kill()
	ready(t, r)
}

// queue has replicas wait, one after another, for one that loads on their GPU; inTurn is what Prepare does once their turn has
// come. The function that it returns ends the first one's turn.
func queue(t *testing.T, replicas int, inTurn func(ctx context.Context, replica int) error) (end func(), stall time.Duration) {
	o := options(t, Launch{})
	o.turns = newTurns(0)
	close(o.turns.clear)
	first := o.turns.join("0", 1)
	for replica := 2; replica < 2+replicas; replica++ {
		o.Replica, o.LogDir = replica, t.TempDir()
		waits := true
		o.Prepare = func(ctx context.Context, replica int) (Launch, error) {
			if waits {
				waits = false
				return Launch{SharedGPUs: "0"}, nil
			}
			return Launch{}, inTurn(ctx, replica)
		}
		supervise(t, o)
		synctest.Wait()
	}
	return first.end, o.LoadStall
}

// Replicas load in the order in which they came, and a start that fails hands its turn on.
func TestTurnsAreInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []int
		end, _ := queue(t, 8, func(_ context.Context, replica int) error {
			order = append(order, replica)
			return &PermanentError{Message: "not now"}
		})
		end()
		synctest.Wait()
		if diff := cmp.Diff([]int{2, 3, 4, 5, 6, 7, 8, 9}, order); diff != "" {
			t.Errorf("order of turns (-want +got):\n%s", diff)
		}
	})
}

// A start that hangs before there is a worker does not keep the others from loading.
func TestTurnOfAStartThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, took := time.Now(), time.Duration(0)
		end, stall := queue(t, 2, func(ctx context.Context, replica int) error {
			if replica == 3 {
				took = time.Since(began)
			}
			<-ctx.Done()
			return ctx.Err()
		})
		end()
		time.Sleep(2 * stall)
		synctest.Wait()
		if took != stall {
			t.Errorf("the next one's turn came after %s, want %s", took, stall)
		}
	})
}

// What a replica starts is what it finds when its turn has come.
func TestLaunchIsNotOlderThanTheTurn(t *testing.T) {
	g := newGarage(t)
	old := Launch{Argv: []string{"/was/removed/meanwhile"}, SharedGPUs: "0"}
	o := options(t, Launch{})
	o.turns = newTurns(0)
	close(o.turns.clear)
	first := o.turns.join("0", 2)
	launches := []Launch{old, g.worker()}
	o.Prepare = func(context.Context, int) (l Launch, err error) {
		l, launches = launches[0], launches[1:]
		return l, nil
	}
	s := supervise(t, o)
	for s.Status().Phase != WaitPhase {
		time.Sleep(time.Millisecond)
	}
	first.end()
	g.tell(waitFor(t, s, Loading).PID, "ready")
	waitFor(t, s, Ready)
}
