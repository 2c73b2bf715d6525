package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"stoker/daemon/config"
	"stoker/engine"
)

// withGPUs is a machine with a tool that lists GPUs as NVIDIA's does, or with one that only fails; "" is a machine without.
func withGPUs(t *testing.T, list string) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if list == "" {
		return
	}
	script := "#!/bin/sh\nprintf '" + list + "'\n"
	if list == broken {
		script = "#!/bin/sh\nexit 9\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

const broken = "broken"

func TestReplicasShareGPUs(t *testing.T) {
	for _, c := range []struct {
		name, gpus, visible string
		replicas            config.Replicas
		args                map[string]any
		want                []string // CUDA_VISIBLE_DEVICES of each replica; "?" where it is refused, "!" where it is put off, "-" where it is left alone
	}{
		{name: "one each", gpus: "0\\n1\\n2\\n", replicas: 2, want: []string{"0", "1"}},
		{name: "as many as there are", gpus: "0\\n1\\n2\\n", want: []string{"0", "1", "2"}},
		{name: "two each", gpus: "0\\n1\\n2\\n3\\n4\\n", args: map[string]any{"tensor_parallel_size": int64(2)}, want: []string{"0,1", "2,3"}},
		{name: "four each", gpus: "0\\n1\\n2\\n3\\n", args: map[string]any{"tensor_parallel_size": int64(2), "pipeline_parallel_size": int64(2)}, want: []string{"-"}},
		{name: "those that the environment lists", gpus: "0\\n1\\n2\\n", visible: "2, GPU-abc", want: []string{"2", "GPU-abc"}},
		{name: "two on one", gpus: "0\\n", replicas: 2, want: []string{"0", "0"}},
		{name: "five on two", gpus: "0\\n1\\n", replicas: 5, want: []string{"0", "1", "0", "1", "0"}},
		{name: "three on pairs", gpus: "0\\n1\\n2\\n3\\n4\\n", replicas: 3, args: map[string]any{"tensor_parallel_size": int64(2)}, want: []string{"0,1", "2,3", "0,1"}},
		{name: "one that the environment lists twice", gpus: "0\\n1\\n", visible: "1,1", want: []string{"-"}},
		{name: "fewer than one needs", gpus: "0\\n", replicas: 2, args: map[string]any{"tensor_parallel_size": int64(2)}, want: []string{"?", "?"}},
		{name: "a single one", gpus: "0\\n1\\n", replicas: 1, want: []string{"-"}},
		{name: "two data-parallel ones each", gpus: "0\\n1\\n2\\n3\\n", args: map[string]any{"data_parallel_size": int64(2)}, want: []string{"0,1", "2,3"}},
		{name: "a tool that fails", gpus: broken, replicas: 2, want: []string{"!", "!"}},
		{name: "a tool that fails, automatically", gpus: broken, want: []string{"-"}},
		{name: "a CPU", replicas: 2, want: []string{"-", "-"}},
		{name: "a CPU, automatically", want: []string{"-"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			withGPUs(t, c.gpus)
			conf := config.Default()
			conf.Engine.Replicas, conf.Engine.Args = c.replicas, c.args
			if c.visible != "" {
				conf.Engine.Env = map[string]string{"CUDA_VISIBLE_DEVICES": c.visible}
			}
			d := &Daemon{o: Options{Config: &conf}}
			n := d.replicas(t.Context())
			var got []string
			for k := 1; k <= n; k++ {
				got = append(got, visibleTo(t, d, k, n))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("GPUs of the replicas (-want +got):\n%s", diff)
			}
		})
	}
}

func visibleTo(t *testing.T, d *Daemon, k, n int) string {
	prepare := d.sharing(func(context.Context) (engine.Launch, error) {
		return engine.Launch{Env: workerEnv(nil, d.o.Config.Engine.Env, nil), Args: engineArgs(&d.o.Config.Engine)}, nil
	}, n)
	l, err := prepare(t.Context(), k)
	if permanent, ok := errors.AsType[*engine.PermanentError](err); ok && permanent.Hint != "" {
		return "?"
	}
	if err != nil {
		return "!"
	}
	if list, ok := strings.CutPrefix(l.Env[len(l.Env)-1], "CUDA_VISIBLE_DEVICES="); ok && n > 1 {
		return list
	}
	return "-"
}

// Replicas of one GPU share its memory, and load one after another; one that has its GPUs for itself is left alone.
func TestReplicasShareMemory(t *testing.T) {
	type part struct {
		GPUs string // which it has to wait for
		Args map[string]any
	}
	args := func(utilization float64) map[string]any { return map[string]any{"gpu_memory_utilization": utilization} }
	for _, c := range []struct {
		name, gpus  string
		kind        config.Kind
		replicas    config.Replicas
		utilization float64
		args        map[string]any
		want        []part
	}{
		{name: "one each", gpus: "0\n1\n", replicas: 2, want: []part{{}, {}}},
		{name: "one each, configured", gpus: "0\n1\n", replicas: 2, utilization: 0.8, want: []part{{"", args(0.8)}, {"", args(0.8)}}},
		{name: "two on one", gpus: "0\n", replicas: 2, want: []part{{"0", args(0.45)}, {"0", args(0.45)}}},
		{name: "two on one, configured", gpus: "0\n", replicas: 2, utilization: 0.5, want: []part{{"0", args(0.25)}, {"0", args(0.25)}}},
		{name: "three on two", gpus: "0\n1\n", replicas: 3, want: []part{{"0", args(0.45)}, {}, {"0", args(0.45)}}},
		{
			name: "four on a pair", gpus: "2\n3\n", replicas: 4, args: map[string]any{"tensor_parallel_size": int64(2)},
			want: slices.Repeat([]part{{"2,3", map[string]any{"tensor_parallel_size": int64(2), "gpu_memory_utilization": 0.225}}}, 4),
		},
		{
			name: "the cache's size is each one's", gpus: "0\n", replicas: 2, args: map[string]any{"kv_cache_memory_bytes": int64(1 << 30)},
			want: slices.Repeat([]part{{"0", map[string]any{"kv_cache_memory_bytes": int64(1 << 30), "gpu_memory_utilization": 0.45}}}, 2),
		},
		{name: "a rehearsal has no memory to share", gpus: "0\n", kind: config.KindEcho, replicas: 2, want: []part{{"0", nil}, {"0", nil}}},
		{name: "a CPU", replicas: 2, want: []part{{}, {}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			withGPUs(t, c.gpus)
			conf := config.Default()
			if c.kind != "" {
				conf.Engine.Kind = c.kind
			}
			conf.Engine.Replicas, conf.Engine.GPUMemoryUtilization, conf.Engine.Args = c.replicas, c.utilization, c.args
			d := &Daemon{o: Options{Config: &conf}}
			launch := func(context.Context) (engine.Launch, error) {
				return engine.Launch{Args: engineArgs(&conf.Engine)}, nil
			}
			var got []part
			for k := range int(c.replicas) {
				l, err := d.sharing(launch, int(c.replicas))(t.Context(), k+1)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, part{l.SharedGPUs, l.Args})
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("what the replicas share (-want +got):\n%s", diff)
			}
			if len(c.args) > 1 || c.args["gpu_memory_utilization"] != nil {
				t.Errorf("the configuration has become %v", c.args)
			}
		})
	}
}
