package daemon

import (
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

// sharing is a launch whose replicas, if there are several, each have GPUs of their own.
func (d *Daemon) sharing(launch func(context.Context) (engine.Launch, error), n int) func(context.Context, int) (engine.Launch, error) {
	return func(ctx context.Context, replica int) (engine.Launch, error) {
		l, err := launch(ctx)
		if err == nil && n > 1 {
			err = d.share(ctx, &l, replica, n)
		}
		return l, err
	}
}

// share gives the worker of one of n replicas GPUs of its own. Where there are none, on a CPU, there is nothing to give.
func (d *Daemon) share(ctx context.Context, l *engine.Launch, replica, n int) error {
	gpus, err := engine.GPUs(ctx, l.Env)
	if err != nil || len(gpus) == 0 {
		return err
	}
	each := gpusEach(&d.o.Config.Engine)
	end := replica * each
	if end > len(gpus) {
		return &engine.PermanentError{
			Message: fmt.Sprintf("replica %d of %d needs %d GPUs of its own, and there are %d in all", replica, n, each, len(gpus)),
			Hint:    fmt.Sprintf("set engine.replicas = %d", max(1, len(gpus)/each)),
		}
	}
	l.Env = append(l.Env, "CUDA_VISIBLE_DEVICES="+strings.Join(gpus[end-each:end], ","))
	return nil
}
