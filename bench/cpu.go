package bench

import (
	"strings"

	"stoker/engine/processes"
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

// cpuOf adds up what the living processes of groups have used. stoker is the process that counts as stoker's own.
func cpuOf(stoker int, groups ...int) (total CPU) {
	for _, group := range groups {
		for _, p := range members(group) {
			switch {
			case p.PID == stoker:
				total.Stoker += p.CPU.Seconds()
			case isEngine(p):
				total.Engine += p.CPU.Seconds()
			default:
				total.Front += p.CPU.Seconds()
			}
		}
	}
	return total
}

// members lists a group, with those that have ended and were not reaped.
func members(group int) []processes.Stat {
	all, _ := processes.List(func(p processes.Stat) bool { return p.Group == group })
	return all
}

// isEngine goes by the title that vLLM gives its engine processes.
func isEngine(p processes.Stat) bool {
	title := p.Title()
	return strings.Contains(title, "VLLM::EngineCore") || strings.Contains(title, "VLLM::Worker")
}
