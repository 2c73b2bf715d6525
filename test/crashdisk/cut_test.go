//go:build disk

package crashdisk

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

const (
	// pointsVar names the environment variable with the number of cuts on ext4. The others get a part of it.
	pointsVar = "CRASHDISK_POINTS"
	// replayVar names the environment variable that makes one cut of a saved recording again: FILE:CUT:SEED.
	replayVar = "CRASHDISK_REPLAY"
)

// TestPowerCuts cuts the power at random moments of a daemon's life. What it said was durable must be there after
// recovery, whatever part of the rest is.
func TestPowerCuts(t *testing.T) {
	if replay := os.Getenv(replayVar); replay != "" {
		replayCut(t, replay)
		return
	}
	for _, on := range []struct {
		kind   string
		layout layout
		share  float64
		lives  int
	}{
		{"ext4", oneDisk, .6, 2},
		{"ext4", threeDisks, .4, 2},
		{"xfs", oneDisk, .1, 1},
		{"btrfs", oneDisk, .1, 1},
	} {
		t.Run(fmt.Sprintf("%s-%d", on.kind, len(on.layout)), func(t *testing.T) {
			cutPower(t, kinds[on.kind], on.layout, on.lives, int(on.share*float64(rig.Number(t, pointsVar, 200)))/on.lives)
		})
	}
}

func cutPower(t *testing.T, k kind, l layout, lives, points int) {
	began := time.Now()
	chance := rig.Random(t)
	var total outcome
	for range lives {
		r, err := record(t, k, l, rig.Released)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("recorded %d after %s", r.length, time.Since(began))
		o := r.explore(t, r.draw(chance, points), 3)
		if len(o.failed) > 0 {
			r.tell(t, o.failed)
		}
		total.add(o)
	}
	figures.Report(t, figures.Figures{
		Suite: "power cuts on " + k.name + disks(l), Count: total.points, Lost: total.tally.Lost, Doubled: total.tally.Doubled, Redone: total.redone,
		Note:    fmt.Sprintf("%d cut again during recovery, %d run to the end", total.again, total.ended),
		Seconds: int(time.Since(began).Seconds()),
	})
}

func disks(l layout) string {
	if len(l) == 1 {
		return ""
	}
	return fmt.Sprintf(", %d disks", len(l))
}

// tell reports cuts that failed, with what is needed to make them again.
func (r *recording) tell(t *testing.T, failed []failure) {
	t.Helper()
	path, err := r.save()
	if err != nil {
		t.Error(err)
	}
	for _, f := range failed {
		t.Errorf("cut at %d of %d: %v\nagain with %s=%s:%d:%d", f.point.cut, r.length, f.err, replayVar, path, f.point.cut, f.point.seed)
	}
}

func replayCut(t *testing.T, replay string) {
	parts := strings.Split(replay, ":")
	if len(parts) != 3 {
		t.Fatalf("%s=%s: is not FILE:CUT:SEED", replayVar, replay)
	}
	r, err := load(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	cut, err1 := strconv.Atoi(parts[1])
	seed, err2 := strconv.ParseUint(parts[2], 10, 64)
	if err1 != nil || err2 != nil {
		t.Fatalf("%s=%s: is not FILE:CUT:SEED", replayVar, replay)
	}
	for _, f := range r.explore(t, []point{{cut, seed}}, 1).failed {
		t.Errorf("cut at %d of %d: %v", f.point.cut, r.length, f.err)
	}
}
