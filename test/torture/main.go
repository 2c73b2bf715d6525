// Torture runs the suites that break stoker, one after another, and prints what they found as one table. With a planted bug
// (-mutant) it runs those that could show it, and must end red.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"

	"stoker/test/figures"
)

func main() {
	mutant := flag.String("mutant", "", "the planted bug that is to be noticed")
	only := flag.String("only", "", "a regular expression of the suites to run")
	logs := flag.String("logs", "build/torture", "the folder for the suites' output")
	flag.Parse()
	if err := run(*mutant, *only, *logs); err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

func run(mutant, only, logs string) error {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	if logs, err = filepath.Abs(logs); err != nil {
		return err
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	r := &runner{logs: logs, out: os.Stdout, figures: filepath.Join(logs, "figures.ndjson")}
	if err := os.Remove(r.figures); err != nil && !os.IsNotExist(err) {
		return err
	}
	if mutant != "" {
		return r.provoke(mutant, pattern)
	}
	return r.all(pattern)
}

// runner runs suites and keeps count.
type runner struct {
	logs    string
	figures string // the file to which suites report
	out     io.Writer

	mu     sync.Mutex
	passed int // tests
	failed []string
}

func (r *runner) all(only *regexp.Regexp) error {
	var all sync.WaitGroup
	for lane := range lanes {
		all.Go(func() { r.runLane(lane, only) })
	}
	all.Wait()
	if err := r.table(); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "torture: %d tests passed, %d suites failed\n", r.passed, len(r.failed))
	if len(r.failed) > 0 {
		return fmt.Errorf("failed: %s (output in %s)", strings.Join(r.failed, ", "), r.logs)
	}
	return nil
}

func (r *runner) runLane(lane int, only *regexp.Regexp) {
	for _, s := range suites {
		if s.lane == lane && only.MatchString(s.name) {
			r.run(s)
		}
	}
}

// run runs one suite. The output of one that fails is told, less what is no news.
func (r *runner) run(s suite, env ...string) (ok bool) {
	began := time.Now()
	log := filepath.Join(r.logs, s.name+".log")
	err := r.command(s, log, env)
	took := time.Since(began).Round(time.Second)
	lines := read(log)
	passed := len(grep(lines, passedTest))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passed += passed
	if err == nil {
		fmt.Fprintf(r.out, "ok    %-12s %4d tests  %s\n", s.name, passed, took)
		return true
	}
	r.failed = append(r.failed, s.name)
	fmt.Fprintf(r.out, "FAIL  %-12s %v after %s\n", s.name, err, took)
	for _, line := range news(lines) {
		fmt.Fprintln(r.out, line)
	}
	return false
}

func (r *runner) command(s suite, log string, env []string) error {
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command("go", append([]string{"test", "-count", "1", "-v", "-timeout", "40m"}, s.args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(append(os.Environ(), figures.FileVar+"="+r.figures), append(s.env, env...)...)
	return cmd.Run()
}

var (
	passedTest = regexp.MustCompile(`^ *--- PASS`)
	noNews     = regexp.MustCompile(`^ *(=== |--- PASS|PASS$|ok )`)
	invariant  = regexp.MustCompile(`\bI(10|[1-9])\b`)
	message    = regexp.MustCompile(`^ +\w+_test\.go:\d+: `)
)

func read(log string) []string {
	text, err := os.ReadFile(log)
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func grep(lines []string, what *regexp.Regexp) (found []string) {
	for _, line := range lines {
		if what.MatchString(line) {
			found = append(found, line)
		}
	}
	return found
}

// maxNews bounds what is told of a suite that failed; its log has all.
const maxNews = 200

func news(lines []string) (told []string) {
	for _, line := range lines {
		if !noNews.MatchString(line) && len(told) < maxNews {
			told = append(told, line)
		}
	}
	return told
}

// table prints what the suites reported.
func (r *runner) table() error {
	f, err := os.Open(r.figures)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	w := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nwhat was done\tcount\tlost\tdoubled\tredone, max\tseconds\t")
	var notes []string
	var lost, doubled, redone int
	for in := bufio.NewScanner(f); in.Scan(); {
		var row figures.Figures
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			return fmt.Errorf("read figures: %w", err)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t\n", row.Suite, row.Count, row.Lost, row.Doubled, row.Redone, row.Seconds)
		lost, doubled, redone = lost+row.Lost, doubled+row.Doubled, max(redone, row.Redone)
		if row.Note != "" {
			notes = append(notes, row.Suite+": "+row.Note)
		}
	}
	fmt.Fprintf(w, "all\t\t%d\t%d\t%d\t\t\n", lost, doubled, redone)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(r.out)
	for _, note := range notes {
		fmt.Fprintln(r.out, note)
	}
	return nil
}

// provoke runs stoker with a planted bug. It must be noticed, which is an error here: the suites are red.
func (r *runner) provoke(mutant string, only *regexp.Regexp) error {
	if known, err := exec.Command("git", "grep", "-qF", fmt.Sprintf("faults.Planted(%q)", mutant), "--", "*.go").CombinedOutput(); err != nil {
		return fmt.Errorf("no bug of the name %s is planted anywhere: %w %s", mutant, err, known)
	}
	for _, s := range provocations {
		if !only.MatchString(s.name) {
			continue
		}
		ok := r.quietly(s, mutant)
		if !ok {
			return r.noticed(s, mutant)
		}
		fmt.Fprintf(r.out, "%s: nothing noticed\n", s.name)
	}
	return nil
}

func (r *runner) quietly(s suite, mutant string) (ok bool) {
	return r.command(s, filepath.Join(r.logs, s.name+".log"), []string{"STOKER_PLANT=" + mutant, "STOKER_MUTANT=" + mutant}) == nil
}

// noticed tells by what a planted bug was noticed.
func (r *runner) noticed(s suite, mutant string) error {
	lines := read(filepath.Join(r.logs, s.name+".log"))
	told := grep(grep(lines, message), invariant)
	if len(told) == 0 {
		told = append(news(lines), "no word of why")
	}
	return fmt.Errorf("%s: red in %s: %s", mutant, s.name, strings.TrimSpace(told[0]))
}
