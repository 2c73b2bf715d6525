package daemon

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"stoker/daemon/config"
	"stoker/engine"
)

// replicas is how many workers are started.
func (d *Daemon) replicas(ctx context.Context) int {
	e := &d.o.Config.Engine
	if e.Replicas != config.AutoReplicas {
		return int(e.Replicas)
	}
	if e.Kind != config.KindVLLM {
		return 1
	}
	gpus, err := engine.GPUs(ctx, workerEnv(d.o.Environ, e.Env, nil))
	if err != nil {
		d.component("engine").Error().Err(err).Msg("one replica is started: how many GPUs there are is not known")
	}
	return max(1, len(gpus)/gpusEach(e))
}

// gpusEach is how many GPUs one replica works on.
func gpusEach(e *config.Engine) int {
	n := 1
	for _, name := range []string{"tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"} {
		if size, ok := e.Args[name].(int64); ok && size > 0 {
			n *= int(size)
		}
	}
	return n
}

// sharing is a launch whose replicas, if there are several, each have their part of the GPUs.
func (d *Daemon) sharing(launch func(context.Context) (engine.Launch, error), n int) func(context.Context, int) (engine.Launch, error) {
	return func(ctx context.Context, replica int) (engine.Launch, error) {
		l, err := launch(ctx)
		if err == nil && n > 1 {
			err = d.share(ctx, &l, replica, n)
		}
		return l, err
	}
}

// share gives the worker of one of n replicas as many GPUs as it needs, groups of which the replicas take in turn: where there
// are fewer groups than replicas, several have the same. Where there are no GPUs, on a CPU, there is nothing to give.
func (d *Daemon) share(ctx context.Context, l *engine.Launch, replica, n int) error {
	gpus, err := engine.GPUs(ctx, l.Env)
	if err != nil || len(gpus) == 0 {
		return err
	}
	each := gpusEach(&d.o.Config.Engine)
	groups := len(gpus) / each
	if groups == 0 {
		return &engine.PermanentError{
			Message: fmt.Sprintf("each replica needs %d GPUs, and only %d can be used", each, len(gpus)),
			Hint:    "lower tensor_parallel_size, pipeline_parallel_size or data_parallel_size in [engine.args]",
		}
	}
	group := (replica - 1) % groups
	own := strings.Join(gpus[group*each:(group+1)*each], ",")
	l.Env = append(l.Env, "CUDA_VISIBLE_DEVICES="+own)
	if sharers := (n-1-group)/groups + 1; sharers > 1 {
		d.component("engine").Info().Int("replica", replica).Str("gpus", own).Int("replicas", sharers).Msg("replicas share GPUs")
		l.SharedGPUs = own
		d.shareMemory(l, sharers)
	}
	return nil
}

// sharedUtilization is the share of a GPU's memory that several replicas get together where none is configured. It is a little
// less than vLLM takes for one (0.92 in 0.26), since what an engine has beside its share is there several times.
const sharedUtilization = 0.9

// shareMemory gives a worker of vLLM its part of the memory of GPUs that several have. An argument kv_cache_memory_bytes stays:
// like all of [engine.args] it is what each worker is told. The part still is what vLLM wants to be free when it starts.
func (d *Daemon) shareMemory(l *engine.Launch, sharers int) {
	e := &d.o.Config.Engine
	if e.Kind == config.KindVLLM {
		l.Args["gpu_memory_utilization"] = cmp.Or(e.GPUMemoryUtilization, sharedUtilization) / float64(sharers)
	}
}
