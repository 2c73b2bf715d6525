package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		{name: "more than there are", gpus: "0\\n", replicas: 2, want: []string{"0", "?"}},
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
		return engine.Launch{Env: workerEnv(nil, d.o.Config.Engine.Env, nil)}, nil
	}, n)
	l, err := prepare(t.Context(), k)
	var permanent *engine.PermanentError
	if errors.As(err, &permanent) && permanent.Hint != "" {
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
