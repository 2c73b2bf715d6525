package daemon

import (
	"time"

	"stoker/daemon/api"
	"stoker/daemon/config"
)

// Reload reads the configuration again. What a running stoker can change takes effect: for files that are taken and results
// that are published from then on. What it cannot, such as the model, is named and waits for the next start. If anything is
// wrong with it nothing changes. It must not be called by two at a time.
func (d *Daemon) Reload(read func() (*config.Config, error)) {
	<-d.up
	if !d.isRunning() || d.draining.Load() != nil {
		return // the next start reads it
	}
	d.o.Systemd.Reloading()
	defer func() {
		if d.draining.Load() == nil { // else systemd would take stoker for one that goes on
			d.o.Systemd.Ready()
		}
	}()
	r := &api.Reload{At: time.Now()}
	err := d.replace(read, r)
	if err != nil {
		r.Refused = reasons(err)
		if last := d.reload.Load(); last != nil {
			r.Waiting = last.Waiting // for the next start still
		}
		d.o.Logger.Error().Strs("errors", r.Refused).Msg("configuration is refused; everything stays as it was")
	}
	d.reload.Store(r)
}

// replace puts a configuration into effect. What can fail comes first.
func (d *Daemon) replace(read func() (*config.Config, error), r *api.Reload) error {
	c, err := read()
	if err != nil {
		return err
	}
	next := d.config.Load().Replace(c)
	remote, err := isRemote(&next.Config, nil)
	if err != nil {
		return err
	}
	out, err := outboxSettings(&next.Config)
	if err != nil {
		return err
	}
	d.config.Store(&next.Config)
	d.line.Inbox.Configure(inboxSettings(&next.Config, remote))
	d.line.Outbox.Configure(out)
	if d.o.SetLogLevel != nil {
		d.o.SetLogLevel(next.Config.Log.Level)
	}
	r.Waiting = next.Waiting
	d.o.Logger.Info().Strs("changed", next.Changed).Msg("configuration is reloaded")
	if len(next.Waiting) > 0 {
		d.o.Logger.Warn().Strs("keys", next.Waiting).Msg("these changes take effect at the next start")
	}
	return nil
}

// reasons are the errors of a configuration, one text each.
func reasons(err error) []string {
	all := config.All(err)
	if len(all) == 0 {
		return []string{err.Error()}
	}
	var texts []string
	for _, e := range all {
		texts = append(texts, e.Error())
	}
	return texts
}
