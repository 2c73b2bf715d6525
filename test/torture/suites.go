package main

// suite is one run of go test.
type suite struct {
	name string // of its log, too
	args []string
	env  []string
	lane int // suites of different lanes run at a time
}

// Lanes: what computes, and what mostly waits.
const (
	busy = iota
	idle
	lanes
)

// suites are all of them, in the order in which they are run.
var suites = []suite{
	{name: "sim", args: []string{"-run", "^(TestSimulation|TestSameSeedSameWorld)$", "./test/sim"}, env: []string{"STOKER_SEEDS=10000"}},
	{name: "sim-planted", args: []string{"-tags", "faults", "-run", "^TestPlantedBugs$", "./test/sim"}},
	{name: "e2e", args: []string{"./test/e2e"}},
	{name: "kill", args: []string{"-parallel", "4", "./test/kill"}},
	{name: "crashdisk", args: []string{"-tags", "disk", "./test/crashdisk/..."}, env: []string{"CRASHDISK_POINTS=2000"}},
	{name: "bench", args: []string{"-tags", "real", "-run", "^(TestBench|TestBenchStarts|TestTune)$", "./test/real"}},
	{name: "storage", args: []string{"./test/storage"}, lane: idle},
	{name: "real", args: []string{"-tags", "real", "-skip", "^(TestBench|TestBenchStarts|TestTune)$", "./test/real"}, lane: idle},
	{name: "vm", args: []string{"-tags", "vm", "-parallel", "2", "./test/vm"}, lane: idle},
}

// provocations are the suites that planted bugs are noticed by, the quickest first. Each runs with the bug as if it were
// stoker's own.
var provocations = []suite{
	{name: "e2e", args: []string{"-run", "^TestPlantedBugs$", "./test/e2e"}},
	{name: "sim", args: []string{"-tags", "faults", "-run", "^TestSimulation$", "./test/sim"}, env: []string{"STOKER_SEED=0", "STOKER_SEEDS=2000"}},
	{name: "crashdisk", args: []string{"-tags", "disk", "-run", "^TestPlantedBugs$", "./test/crashdisk"}},
	{name: "vm", args: []string{"-tags", "vm", "-run", "^TestPlantedBug$", "./test/vm"}},
}
