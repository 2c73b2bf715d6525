package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"stoker/engine/processes"
)

// Shortage is the memory that was missing to load the model, as far as the engine tells. Amounts are in bytes.
type Shortage struct {
	Device  string   `json:"device,omitzero"` // "cuda:0", or "node 0" of the host's memory
	Need    int64    `json:"need,omitzero"`
	Free    int64    `json:"free,omitzero"`
	Total   int64    `json:"total,omitzero"`
	Holders []Holder `json:"holders,omitzero"` // who has the rest
}

// Holder is a process that has memory of a GPU.
type Holder struct {
	PID   int    `json:"pid"`
	Name  string `json:"name"`
	Bytes int64  `json:"bytes,omitzero"`
}

// String tells people what is missing and who has it.
func (s *Shortage) String() string {
	var b strings.Builder
	b.WriteString("too little free memory")
	if s.Device != "" {
		b.WriteString(" on " + s.Device)
	}
	fmt.Fprintf(&b, ": %s needed", gib(s.Need))
	if s.Total > 0 {
		fmt.Fprintf(&b, ", %s of %s free", gib(s.Free), gib(s.Total))
	}
	for i, h := range s.Holders {
		b.WriteString([]string{"; held by ", ", "}[min(i, 1)])
		fmt.Fprintf(&b, "%s (pid %d", h.Name, h.PID)
		if h.Bytes > 0 {
			b.WriteString(", " + gib(h.Bytes))
		}
		b.WriteString(")")
	}
	return b.String()
}

func gib(n int64) string { return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30)) }

// findHolders asks NVIDIA's tool who has memory of a device, which is named as in the worker's environment. It finds
// nobody where there is no such tool, or where a container hides the processes.
func findHolders(ctx context.Context, device string, env []string) []Holder {
	n, isCUDA := strings.CutPrefix(device, "cuda:")
	if !isCUDA {
		return nil
	}
	out, err := smi(ctx, "--id="+physicalDevice(n, env), "--query-compute-apps=pid,used_memory,process_name", "--format=csv,noheader,nounits")
	if err != nil {
		return nil
	}
	return parseHolders(out)
}

// physicalDevice is the number or UUID of the GPU that CUDA calls n in this environment.
func physicalDevice(n string, env []string) string {
	i, err := strconv.Atoi(n)
	if err != nil {
		return n
	}
	if visible, set := visibleDevices(env); set {
		n = strconv.Itoa(i)
		if i < len(visible) {
			n = visible[i]
		}
	}
	return n
}

// parseHolders reads lines of "PID, MIB, NAME". The amount may be [N/A].
func parseHolders(csv string) []Holder {
	var holders []Holder
	for line := range strings.Lines(csv) {
		fields := strings.SplitN(line, ",", 3)
		if len(fields) != 3 {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(fields[0]))
		if err != nil {
			continue
		}
		mib, _ := strconv.ParseInt(strings.TrimSpace(fields[1]), 10, 64)
		holders = append(holders, Holder{PID: pid, Name: processes.Printable(strings.TrimSpace(fields[2])), Bytes: mib << 20})
	}
	return holders
}
