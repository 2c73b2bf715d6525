package bench

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

// minTokens is the shortest answer that is asked for.
const minTokens = 8

// Load is what all ways run: files of chat requests whose answers differ in length as real ones do, which is what makes
// tails. Equal Loads are equal bytes, on any machine.
type Load struct {
	Requests     int    `json:"requests"` // of all files together
	Files        int    `json:"files"`
	MeanTokens   int    `json:"mean_tokens"` // of the exponential distribution of the answers' lengths
	MaxTokens    int    `json:"max_tokens"`  // lengths are cut here; 0: each answer has MeanTokens
	PromptWords  int    `json:"prompt_words"`
	Seed         uint64 `json:"seed"`
	LongestFirst bool   `json:"longest_first,omitzero"` // each file has its longest answers first
}

// check finds what no load can be made of.
func (l Load) check() error {
	switch {
	case l.Requests < 1, l.Files < 1:
		return fmt.Errorf("a load needs requests and files, got %d and %d", l.Requests, l.Files)
	case l.Files > l.Requests:
		return fmt.Errorf("%d requests do not fill %d files", l.Requests, l.Files)
	case l.MeanTokens < 1, l.MaxTokens < 0, l.MaxTokens > 0 && l.MaxTokens < minTokens:
		return fmt.Errorf("answers of %d tokens in the mean and at most %d cannot be asked for", l.MeanTokens, l.MaxTokens)
	case l.PromptWords < 1:
		return fmt.Errorf("a prompt needs words, got %d", l.PromptWords)
	}
	return nil
}

// request is a line of a batch file, in the form that every way reads.
type request struct {
	CustomID string `json:"custom_id"`
	Method   string `json:"method"`
	URL      string `json:"url"`
	Body     body   `json:"body"`
}

// body fixes the answer's length and how it is drawn, so that every way does the same work: ignore_eos has the model go on
// up to max_tokens, and top_p and top_k keep the model's own settings out, which not every way reads.
type body struct {
	Model       string    `json:"model,omitzero"`
	Messages    []message `json:"messages"`
	MaxTokens   int       `json:"max_tokens"`
	IgnoreEOS   bool      `json:"ignore_eos"`
	Temperature float64   `json:"temperature"`
	TopP        float64   `json:"top_p"`
	TopK        int       `json:"top_k"`
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

const chatURL = "/v1/chat/completions"

// files makes the load. Requests that do not divide evenly go to the first files.
func (l Load) files() [][]request {
	r := rand.New(rand.NewPCG(l.Seed, 0))
	files := make([][]request, l.Files)
	for f := range files {
		n := l.Requests / l.Files
		if f < l.Requests%l.Files {
			n++
		}
		for i := range n {
			files[f] = append(files[f], request{
				CustomID: fmt.Sprintf("%d-%d", f, i), Method: "POST", URL: chatURL,
				Body: body{
					Messages:  []message{{"user", l.prompt(r, f, i)}},
					MaxTokens: l.length(r), IgnoreEOS: true, Temperature: 0.7, TopP: 1,
				},
			})
		}
		if l.LongestFirst {
			slices.SortStableFunc(files[f], func(a, b request) int { return b.Body.MaxTokens - a.Body.MaxTokens })
		}
	}
	return files
}

func (l Load) length(r *rand.Rand) int {
	drawn := int(r.ExpFloat64() * float64(l.MeanTokens))
	if l.MaxTokens == 0 {
		return l.MeanTokens
	}
	return min(max(drawn, minTokens), l.MaxTokens)
}

// words are what prompts are made of. Most are one token in most vocabularies.
var words = strings.Fields(`the system node disk batch queue network memory cache index record store engine power fault
	signal process thread table line file folder share mount reads writes fails waits starts stops grows moves keeps loses
	finds long short old new cold warm full empty fast slow local remote first last every under over after before between`)

func (l Load) prompt(r *rand.Rand, file, i int) string {
	text := fmt.Appendf(nil, "Write an essay on topic %d of list %d:", i, file)
	for range l.PromptWords {
		text = append(append(text, ' '), words[r.IntN(len(words))]...)
	}
	return string(append(text, '.'))
}

// shortRequests is enough to fill any engine.
const shortRequests = 1280

// short is a like load with short answers, to warm an engine up with: as many requests at a time, for a fraction of the time.
func (l Load) short(tokens int) Load {
	l.Requests = min(l.Requests, max(shortRequests, l.Files))
	l.MeanTokens = min(max(l.MeanTokens/4, minTokens), tokens)
	if l.MaxTokens > 0 {
		l.MaxTokens = min(l.MaxTokens, max(2*l.MeanTokens, minTokens))
	}
	return l
}

// tokens is how many tokens the answers have together.
func tokens(files [][]request) (n int64) {
	for _, requests := range files {
		for _, r := range requests {
			n += int64(r.Body.MaxTokens)
		}
	}
	return n
}

// write writes the files to dir and returns their paths. model is what their requests name; "" leaves it out.
func write(files [][]request, dir, model string) (paths []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("write load: %w", err)
	}
	for f, requests := range files {
		path := filepath.Join(dir, fmt.Sprintf("f%03d.jsonl", f))
		if err := writeFile(path, requests, model); err != nil {
			return nil, fmt.Errorf("write load: %w", err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

func writeFile(path string, requests []request, model string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	for _, r := range requests {
		r.Body.Model = model
		if err := json.MarshalWrite(w, r); err != nil {
			return err
		}
		w.WriteByte('\n')
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return file.Close()
}
