package processes

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Stat is what the kernel tells of a process (proc_pid_stat(5)).
type Stat struct {
	PID   int
	Group int
	CPU   time.Duration // processor time that it has used
	state byte
}

// ticksPerSecond is USER_HZ, which Linux fixes at 100 for all that programs see (proc(5), sysconf(3)).
const ticksPerSecond = 100

// List returns the chosen processes but this one, also those that have ended and that nobody has waited for.
func List(chosen func(Stat) bool) (all []Stat, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		text, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // gone meanwhile
		}
		if p, ok := parseStat(pid, text); ok && chosen(p) {
			all = append(all, p)
		}
	}
	return all, nil
}

// parseStat reads /proc/PID/stat. The name, in parentheses, may hold anything.
func parseStat(pid int, text []byte) (p Stat, ok bool) {
	const stateAt, groupAt, userAt, systemAt = 0, 2, 11, 12 // of the fields behind the name
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= systemAt {
		return Stat{}, false
	}
	group, groupErr := strconv.Atoi(string(fields[groupAt]))
	user, userErr := strconv.Atoi(string(fields[userAt]))
	system, systemErr := strconv.Atoi(string(fields[systemAt]))
	cpu := time.Duration(user+system) * time.Second / ticksPerSecond
	return Stat{PID: pid, Group: group, CPU: cpu, state: fields[stateAt][0]}, groupErr == nil && userErr == nil && systemErr == nil
}

// Lives reports whether a process has not ended. One whose first thread has ended lives as long as others of its threads do.
func (p Stat) Lives() bool { return p.state != 'X' && (p.state != 'Z' || p.hasThreads()) }

func (p Stat) hasThreads() bool {
	threads, err := os.ReadDir(p.path("task"))
	return err == nil && len(threads) > 1
}

// Title is what a process was started with, or calls itself.
func (p Stat) Title() string {
	line, _ := os.ReadFile(p.path("cmdline"))
	return Printable(strings.Join(strings.FieldsFunc(string(line), func(r rune) bool { return r == 0 }), " "))
}

// path is that of a file that tells of the process.
func (p Stat) path(name string) string { return filepath.Join("/proc", strconv.Itoa(p.PID), name) }

// Printable drops from what a process says what would break a terminal or a report: control characters, and bytes that are not
// UTF-8.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
