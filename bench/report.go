package bench

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// SchemaVersion is that of Report. Members are added, never renamed or removed.
const SchemaVersion = 1

// Report is what a benchmark found.
type Report struct {
	SchemaVersion int       `json:"schema_version"`
	At            time.Time `json:"at"`
	Version       string    `json:"version"`
	Machine       Machine   `json:"machine"`
	Engine        Engine    `json:"engine"`
	Series        []*Series `json:"series"`
}

// Engine is what all ways had in common.
type Engine struct {
	Kind    string         `json:"kind"`
	Version string         `json:"version,omitzero"`
	Model   string         `json:"model,omitzero"`
	Args    map[string]any `json:"args,omitzero"`
}

// Series is one way over one scenario.
type Series struct {
	Scenario Scenario       `json:"scenario"`
	Part     Part           `json:"part,omitzero"`
	Way      string         `json:"way"`
	Settings map[string]any `json:"settings,omitzero"`  // engine arguments beside the common ones
	InFlight int            `json:"in_flight,omitzero"` // requests at a server
	Replicas int            `json:"replicas,omitzero"`  // of stoker's engine, where they were chosen
	Requests int64          `json:"requests"`
	Tokens   int64          `json:"tokens"` // that the answers should have
	Loads    []Loaded       `json:"loads,omitzero"`
	Rounds   []Sample       `json:"rounds"`

	Seconds Spread `json:"seconds,omitzero"`           // set by Summarize
	Rate    Spread `json:"tokens_per_second,omitzero"` // requests, where the engine counts no tokens
	Stoker  Spread `json:"stoker_ratio,omitzero"`      // how many times as fast stoker was
}

// seriesKey tells series apart.
type seriesKey struct{ scenario, way, settings string }

func (s *Series) key() seriesKey {
	scenario := s.Scenario.Name
	if s.Part.Of > 0 {
		scenario += " " + s.Part.String()
	}
	return seriesKey{scenario, s.Way, s.conditions()}
}

// conditions are what a series has beside its way: ", max_num_seqs = 512".
func (s *Series) conditions() (text string) {
	if s.InFlight > 0 {
		text += fmt.Sprintf(", %d in flight", s.InFlight)
	}
	if s.Replicas > 0 {
		text += ", replicas = " + strconv.Itoa(s.Replicas)
	}
	if settings := settingsText(s.Settings); settings != "" {
		text += ", " + settings
	}
	return text
}

// ErrOther means that two reports are of different loads or engines.
var ErrOther = errors.New("cannot be put together")

// Join adds what an earlier report has: rounds to the same series, and further series. Both must be of the same engine, and
// scenarios of the same name of the same load.
func (r *Report) Join(earlier *Report) error {
	if !sameEngine(r.Engine, earlier.Engine) {
		return fmt.Errorf("%w: the earlier report is of another engine, model or arguments", ErrOther)
	}
	at := map[seriesKey]*Series{}
	loads := map[string]Load{}
	for _, s := range r.Series {
		at[s.key()] = s
		loads[s.key().scenario] = s.Scenario.Load
	}
	joined := []*Series{}
	for _, s := range earlier.Series {
		if l, ok := loads[s.key().scenario]; ok && l != s.Scenario.Load {
			return fmt.Errorf("%w: scenario %s of the earlier report has another load", ErrOther, s.Scenario.Name)
		}
		if later, ok := at[s.key()]; ok {
			later.Rounds = append(slices.Clone(s.Rounds), later.Rounds...)
			later.Loads = append(slices.Clone(s.Loads), later.Loads...)
			continue
		}
		joined = append(joined, s)
	}
	r.Series = append(joined, r.Series...)
	return nil
}

func sameEngine(a, b Engine) bool {
	text := func(e Engine) string {
		t, _ := json.Marshal(e, json.Deterministic(true)) // numbers that were read are of another type
		return string(t)
	}
	return text(a) == text(b)
}

// Summarize computes medians, spreads and ratios, and leaves out series without a round.
func (r *Report) Summarize() {
	r.Series = slices.DeleteFunc(r.Series, func(s *Series) bool { return len(s.Rounds) == 0 })
	slices.SortStableFunc(r.Series, func(a, b *Series) int {
		return cmp.Compare(r.firstOf(a.key().scenario), r.firstOf(b.key().scenario))
	})
	for _, s := range r.Series {
		s.Seconds = spreadOf(each(s.Rounds, func(x Sample) float64 { return x.Seconds }))
		s.Rate = spreadOf(each(s.Rounds, Sample.rate))
	}
	for _, s := range r.Series {
		if stoker := r.stoker(s.key().scenario); stoker != nil && stoker != s {
			s.Stoker = stoker.Rate.over(s.Rate)
		}
	}
}

func (r *Report) firstOf(scenario string) int {
	return slices.IndexFunc(r.Series, func(s *Series) bool { return s.key().scenario == scenario })
}

// stoker is the series that others are compared with: stoker's own, the first if it ran with several settings.
func (r *Report) stoker(scenario string) *Series {
	for _, s := range r.Series {
		if s.key().scenario == scenario && s.Way == "stoker" {
			return s
		}
	}
	return nil
}

func each[T, U any](all []T, f func(T) U) (of []U) {
	for _, v := range all {
		of = append(of, f(v))
	}
	return of
}

// WriteTable writes the report for people, a table for each scenario.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s, stoker %s, %s\n%s\n", r.Engine, r.Version, r.At.Format("2006-01-02"), r.Machine)
	for i := 0; i < len(r.Series); {
		j := i
		for j < len(r.Series) && r.Series[j].key().scenario == r.Series[i].key().scenario {
			j++
		}
		if err := writeScenario(w, r.Series[i:j]); err != nil {
			return err
		}
		i = j
	}
	return nil
}

func (e Engine) String() string {
	text := e.Kind
	for _, more := range []string{e.Version, e.Model} {
		if more != "" {
			text += " " + more
		}
	}
	if args := settingsText(e.Args); args != "" {
		text += " (" + args + ")"
	}
	return text
}

func writeScenario(w io.Writer, series []*Series) error {
	s := series[0]
	fmt.Fprintf(w, "\n%s: %s\n", s.key().scenario, describe(s))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  way\trounds\tseconds\t\t%s\tstoker is\t\tload s\tCPU s stoker\tfront\tengine\n", s.Rounds[0].unit())
	for _, s := range series {
		fmt.Fprintf(t, "  %s\t%d\t%s\t%s\t%s\t%s\t%s\n", s.Way+s.conditions(), len(s.Rounds), figures(s.Seconds, "%.2f", ""),
			humanize.Comma(int64(s.Rate.Median)), ratio(s.Stoker), loadText(s), cpuText(s))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range series {
		if text := stepText(s.Rounds[len(s.Rounds)-1].StepTime); text != "" {
			fmt.Fprintf(w, "  steps of %s in the last round: %s\n", s.Way+s.conditions(), text)
		}
	}
	for _, s := range series {
		if made := s.Rounds[0].Tokens; made != s.Tokens {
			fmt.Fprintf(w, "  note: %s made %s tokens\n", s.Way, humanize.Comma(made))
		}
	}
	return nil
}

// stepText says how long a step took, for the largest numbers of running requests.
func stepText(steps map[string]Step) string {
	const largest = 3
	running := each(slices.Collect(maps.Keys(steps)), func(text string) int { n, _ := strconv.Atoi(text); return n })
	slices.Sort(running)
	slices.Reverse(running)
	var parts []string
	for _, n := range running[:min(largest, len(running))] {
		step := steps[strconv.Itoa(n)]
		parts = append(parts, fmt.Sprintf("%.1f ms with %d–%d requests (%d steps)", step.MedianMS, n/2+1, n, step.Steps))
	}
	return strings.Join(parts, ", ")
}

func describe(s *Series) string {
	l := s.Scenario.Load
	text := fmt.Sprintf("%s requests in %s", humanize.Comma(s.Requests), plural(l.Files, "file"))
	if s.Tokens > 0 {
		text += fmt.Sprintf(", answers of %d tokens in the mean, at most %d, %s together", l.MeanTokens, l.MaxTokens, humanize.Comma(s.Tokens))
	}
	text += fmt.Sprintf("; seed %d", l.Seed)
	if s.Scenario.Starts {
		text += "; starts count"
	}
	return text
}

func plural(n int, what string) string {
	if n == 1 {
		return "one " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// figures is a median with what it lies between, where there are several.
func figures(s Spread, format, unit string) string {
	median := fmt.Sprintf(format, s.Median) + unit
	if s.Min == s.Max {
		return median + "\t"
	}
	return fmt.Sprintf("%s\t(%s–%s)", median, fmt.Sprintf(format, s.Min), fmt.Sprintf(format, s.Max))
}

func ratio(s Spread) string {
	if s == (Spread{}) {
		return "\t"
	}
	return figures(s, "%.2f", "×")
}

func loadText(s *Series) string {
	if len(s.Loads) == 0 || s.Scenario.Starts {
		return ""
	}
	return fmt.Sprintf("%.1f", spreadOf(each(s.Loads, func(l Loaded) float64 { return l.Seconds })).Median)
}

func cpuText(s *Series) string {
	of := func(part func(CPU) float64) string {
		median := spreadOf(each(s.Rounds, func(x Sample) float64 { return part(x.CPU) })).Median
		if median == 0 {
			return ""
		}
		return fmt.Sprintf("%.2f", median)
	}
	return of(func(c CPU) float64 { return c.Stoker }) + "\t" + of(func(c CPU) float64 { return c.Front }) + "\t" +
		of(func(c CPU) float64 { return c.Engine })
}

// Read reads a report that was written as JSON.
func Read(r io.Reader) (*Report, error) {
	report := new(Report)
	if err := json.UnmarshalRead(r, report); err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	if report.SchemaVersion != SchemaVersion {
		return nil, fmt.Errorf("read report: schema version %d, not %d", report.SchemaVersion, SchemaVersion)
	}
	return report, nil
}

// WriteJSON writes one object.
func (r *Report) WriteJSON(w io.Writer) error {
	return json.MarshalWrite(w, r, json.Deterministic(true), jsontext.WithIndent("  "))
}
