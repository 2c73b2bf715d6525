package bench

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/go-json-experiment/json"

	"stoker/engine"
	"stoker/hint"
)

//go:embed driver/driver.py driver/stoker_bench/*.py
var driverFiles embed.FS

// InstallDriver writes what Python runs to a folder that is not there yet, and returns the script's path.
func InstallDriver(dir string) (script string, err error) {
	files, err := fs.Sub(driverFiles, "driver")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, files); err != nil {
		return "", fmt.Errorf("install driver: %w", err)
	}
	return filepath.Join(dir, "driver.py"), nil
}

// driver is a host in Python.
type driver struct {
	job    job
	folder string        // for the job, the log and what the driver writes
	worker string        // folder of stoker's worker, parts of which the driver uses
	launch engine.Launch // the driver's script, by the interpreter and in the environment of the worker

	child    *child
	commands io.WriteCloser
	pipe     *os.File // the replies'
	replies  *bufio.Scanner
}

// job is what a driver is to do.
type job struct {
	Host       string         `json:"host"` // a module of stoker_bench
	Model      string         `json:"model"`
	Args       map[string]any `json:"args"`
	Folder     string         `json:"folder"`
	Port       int            `json:"port,omitzero"`
	ServedName string         `json:"served_name,omitzero"`
}

// reply is what a driver says.
type reply struct {
	Type     string          `json:"type"`
	Seconds  float64         `json:"seconds"`
	Requests int64           `json:"requests"`
	Failed   int64           `json:"failed"`
	Tokens   int64           `json:"tokens"`
	Steps    int64           `json:"steps"`
	StepTime map[string]Step `json:"step_ms"`
	MaxSeqs  int             `json:"max_num_seqs"`
	KVTokens int64           `json:"kv_cache_tokens"`
	Message  string          `json:"message"`
	Hint     string          `json:"hint"`
}

// spawn starts the process.
func (d *driver) spawn() error {
	d.job.Folder = d.folder
	path := filepath.Join(d.folder, "job.json")
	text, err := json.Marshal(d.job)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(d.folder, 0o755), os.WriteFile(path, text, 0o644)); err != nil {
		return err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cmd := exec.Command(d.launch.Argv[0], append(d.launch.Argv[1:], d.worker, path)...)
	cmd.Env = d.launch.Env
	cmd.ExtraFiles = []*os.File{theirs}
	if d.commands, err = cmd.StdinPipe(); err != nil {
		ours.Close()
		return err
	}
	d.pipe, d.replies = ours, bufio.NewScanner(ours)
	d.child, err = startChild(cmd, filepath.Join(d.folder, "log"))
	return err
}

func (d *driver) start(ctx context.Context) (Loaded, error) {
	if err := d.spawn(); err != nil {
		return Loaded{}, fmt.Errorf("start driver: %w", err)
	}
	r, err := d.read(ctx)
	return Loaded{Seconds: r.Seconds, MaxNumSeqs: r.MaxSeqs, KVTokens: r.KVTokens}, err
}

func (d *driver) run(ctx context.Context, way string, files []string) (Sample, error) {
	command, err := json.Marshal(map[string]any{"way": way, "files": files})
	if err != nil {
		return Sample{}, err
	}
	before := cpuOf(0, d.child.pid())
	if _, err := d.commands.Write(append(command, '\n')); err != nil {
		return Sample{}, d.orDeath(err)
	}
	r, err := d.read(ctx)
	return Sample{
		Seconds: r.Seconds, Requests: r.Requests, Failed: r.Failed, Tokens: r.Tokens, Steps: r.Steps, StepTime: r.StepTime,
		CPU: cpuOf(0, d.child.pid()).minus(before),
	}, err
}

func (d *driver) stop() {
	if d.child != nil {
		d.commands.Close()
		d.child.stop()
	}
	d.pipe.Close()
}

// read waits for the next reply.
func (d *driver) read(ctx context.Context) (reply, error) {
	defer context.AfterFunc(ctx, d.child.kill)()
	if !d.replies.Scan() {
		if ctx.Err() != nil {
			return reply{}, ctx.Err()
		}
		return reply{}, d.orDeath(errors.Join(d.replies.Err(), io.ErrUnexpectedEOF))
	}
	var r reply
	if err := json.Unmarshal(d.replies.Bytes(), &r); err != nil {
		return r, fmt.Errorf("read the driver's reply: %w", err)
	}
	if r.Type == "error" {
		return r, &hint.Error{Message: r.Message, Hint: r.Hint}
	}
	return r, nil
}

// orDeath is the driver's death, which is why it cannot be talked to.
func (d *driver) orDeath(err error) error {
	d.child.stop()
	return errors.Join(err, d.child.death())
}
