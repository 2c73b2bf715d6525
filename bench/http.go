package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"
)

// server is an OpenAI-compatible server that somebody else runs.
type server struct {
	url        string // up to and without /v1
	model      string // what requests name; "" as they are
	concurrent int
	key        string // sent as bearer token, if there is one

	http *http.Client
}

func (s *server) start(ctx context.Context) (Loaded, error) {
	began := time.Now()
	s.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: s.concurrent, DisableCompression: true}}
	resp, err := s.get(ctx, "/v1/models")
	if err != nil {
		return Loaded{}, fmt.Errorf("ask the server: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Loaded{}, fmt.Errorf("ask the server: %s/v1/models answers %s", s.url, resp.Status)
	}
	return Loaded{Seconds: time.Since(began).Seconds()}, nil
}

func (s *server) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return nil, err
	}
	s.authorize(req)
	return s.http.Do(req)
}

func (s *server) authorize(req *http.Request) {
	if s.key != "" {
		req.Header.Set("Authorization", "Bearer "+s.key)
	}
}

// run keeps as many requests in flight as it may, over all files, and keeps the answers in memory.
func (s *server) run(ctx context.Context, _ string, files []string) (Sample, error) {
	before, began := ownCPU(), time.Now()
	bodies, err := s.bodies(files)
	if err != nil {
		return Sample{}, err
	}
	var (
		next           atomic.Int64
		failed, tokens atomic.Int64
		senders        sync.WaitGroup
		errs           = make(chan error, 1)
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range min(s.concurrent, len(bodies)) {
		senders.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(bodies)); i = next.Add(1) - 1 {
				n, err := s.post(ctx, bodies[i])
				var refused *refusedError
				switch {
				case errors.As(err, &refused):
					failed.Add(1)
				case err != nil:
					select {
					case errs <- err:
						cancel()
					default:
					}
					return
				}
				tokens.Add(n)
			}
		})
	}
	senders.Wait()
	select {
	case err := <-errs:
		return Sample{}, err
	default:
	}
	return Sample{
		Seconds: time.Since(began).Seconds(), Requests: int64(len(bodies)), Failed: failed.Load(), Tokens: tokens.Load(),
		CPU: CPU{Stoker: ownCPU() - before},
	}, nil
}

// bodies are the requests of files, as they are sent.
func (s *server) bodies(files []string) (bodies [][]byte, err error) {
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(text) {
			var r request
			if err := json.Unmarshal(line, &r); err != nil {
				return nil, err
			}
			r.Body.Model = s.model
			body, err := json.Marshal(r.Body)
			if err != nil {
				return nil, err
			}
			bodies = append(bodies, body)
		}
	}
	return bodies, nil
}

// refusedError is a request that the server answered with an error.
type refusedError struct{ status, body string }

func (e *refusedError) Error() string { return "the server answers " + e.status + ": " + e.body }

// post sends a request and returns how many tokens its answer has.
func (s *server) post(ctx context.Context, body []byte) (tokens int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+chatURL, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	s.authorize(req)
	resp, err := s.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(bufio.NewReader(resp.Body))
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, &refusedError{resp.Status, string(text)}
	}
	var answer struct {
		Usage struct {
			CompletionTokens int64 `json:"completion_tokens"`
		} `json:"usage"`
	}
	err = json.Unmarshal(text, &answer, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	return answer.Usage.CompletionTokens, err
}

func (s *server) stop() {
	if s.http != nil {
		s.http.CloseIdleConnections()
	}
}

// ownCPU is this process's processor time, in seconds.
func ownCPU() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// vllmServe is `vllm serve` with a client of this process.
type vllmServe struct {
	driver driver
	server server
}

const servedName = "bench"

func (v *vllmServe) start(ctx context.Context) (Loaded, error) {
	began := time.Now()
	port, err := freePort()
	if err != nil {
		return Loaded{}, err
	}
	v.driver.job.Port, v.driver.job.ServedName = port, servedName
	v.server.url, v.server.model = fmt.Sprintf("http://127.0.0.1:%d", port), servedName
	if err := v.driver.spawn(); err != nil {
		return Loaded{}, fmt.Errorf("start driver: %w", err)
	}
	const healthEvery = 100 * time.Millisecond
	err = v.driver.child.until(ctx, healthEvery, func() (bool, error) {
		_, err := v.server.start(ctx)
		return err == nil, nil
	})
	return Loaded{Seconds: time.Since(began).Seconds()}, err
}

func (v *vllmServe) run(ctx context.Context, way string, files []string) (Sample, error) {
	group := v.driver.child.pid()
	before := cpuOf(0, group)
	s, err := v.server.run(ctx, way, files)
	used := cpuOf(0, group).minus(before)
	s.CPU.Front, s.CPU.Engine = used.Front, used.Engine
	return s, err
}

func (v *vllmServe) stop() {
	if v.driver.child != nil {
		unix.Kill(v.driver.child.pid(), unix.SIGTERM)
	}
	v.driver.stop()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// baseURL is a server's address without the /v1 that people copy along.
func baseURL(url string) string { return strings.TrimSuffix(strings.TrimRight(url, "/"), "/v1") }
