package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// CPU is the processor time that a round took, in seconds.
type CPU struct {
	Stoker float64 `json:"stoker"` // the daemon, or the client of a server
	Front  float64 `json:"front"`  // Python around the engine: templates, tokens to text, HTTP
	Engine float64 `json:"engine"` // vLLM's engine processes; part of Front where they are not processes of their own
}

func (a CPU) minus(b CPU) CPU {
	return CPU{Stoker: a.Stoker - b.Stoker, Front: a.Front - b.Front, Engine: a.Engine - b.Engine}
}

// ticksPerSecond is USER_HZ, which Linux fixes at 100 for all that programs see (proc(5), sysconf(3)).
const ticksPerSecond = 100

// cpuOf adds up what the living processes of groups have used. stoker is the process that counts as stoker's own.
func cpuOf(stoker int, groups ...int) (total CPU) {
	for _, group := range groups {
		for _, p := range members(group) {
			switch {
			case p.pid == stoker:
				total.Stoker += p.seconds
			case p.isEngine():
				total.Engine += p.seconds
			default:
				total.Front += p.seconds
			}
		}
	}
	return total
}

// member is a process of a group.
type member struct {
	pid     int
	seconds float64
}

// members lists a group, with those that have ended and were not reaped.
func members(group int) (all []member) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		if of, seconds, ok := parseStat(stat); ok && of == group {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			all = append(all, member{pid, seconds})
		}
	}
	return all
}

// isEngine goes by the title that vLLM gives its engine processes.
func (m member) isEngine() bool {
	title, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(m.pid), "cmdline"))
	return bytes.Contains(title, []byte("VLLM::EngineCore")) || bytes.Contains(title, []byte("VLLM::Worker"))
}

// parseStat reads a process's group and processor time out of /proc/PID/stat. The name, in parentheses, may hold
// anything.
func parseStat(stat []byte) (group int, seconds float64, ok bool) {
	const groupAt, userAt, systemAt = 2, 11, 12 // of the fields behind the name
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= systemAt {
		return 0, 0, false
	}
	group, err := strconv.Atoi(string(fields[groupAt]))
	user, userErr := strconv.Atoi(string(fields[userAt]))
	system, systemErr := strconv.Atoi(string(fields[systemAt]))
	if err != nil || userErr != nil || systemErr != nil {
		return 0, 0, false
	}
	return group, float64(user+system) / ticksPerSecond, true
}
