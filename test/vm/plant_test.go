//go:build vm

package vm

import (
	"regexp"
	"testing"

	"stoker/test/figures"
	"stoker/test/rig"
)

var invariant = regexp.MustCompile(`\bI(10|[1-9])\b`)

// TestPlantedBug proves that these tests can fail: cuts of the power must show that stoker does not sync its folders.
func TestPlantedBug(t *testing.T) {
	t.Parallel()
	const most = 10 // cuts until it is noticed
	plant := "dir-not-synced"
	if mutant := rig.Mutant(); mutant != "" {
		plant = mutant
	}
	g := newGuest(t, installed.root(t))
	g.write("/etc/systemd/system/stoker.service.d/planted.conf", "[Service]\nEnvironment=STOKER_PLANT="+plant+"\n")
	g.sh("install /media/stoker-faults /usr/bin/stoker; systemctl daemon-reload; systemctl restart stoker")
	c := &cutting{g: g, chance: rig.Random(t)}
	var err error
	for err == nil && c.cuts < most {
		if err = c.lives(1); err == nil {
			err = c.end()
			g.sh("systemctl start stoker")
		}
	}
	if err != nil && !invariant.MatchString(err.Error()) {
		t.Fatalf("no invariant is broken, but: %v", err)
	}
	if rig.Mutant() != "" { // as if the bug were stoker's own
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	row := figures.Figures{Suite: "planted bugs that power cuts of a virtual machine showed", Note: "1 planted"}
	if err == nil {
		t.Errorf("%d cuts did not show it", c.cuts)
	} else {
		row.Count++
		t.Logf("noticed after %d cuts: %v", c.cuts, err)
	}
	figures.Report(t, row)
}
