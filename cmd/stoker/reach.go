package main

import (
	"context"
	"fmt"
	"time"

	"stoker/daemon/api"
	"stoker/daemon/client"
	"stoker/daemon/config"
	"stoker/packaging/service"
	"stoker/store/batchfile/check"
)

// reach finds the daemon, and the configuration that is in effect: what the daemon works with, where one answers. Then it
// matters neither what the file says since nor what is wrong with it, of which the user is warned.
//
// Without an answer the error is the configuration's, with nothing else, or why there is none.
func (a *app) reach(ctx context.Context) (*client.Client, *config.Loaded, error) {
	loaded, wrong := config.Salvage(a.configOptions(nil))
	if loaded == nil {
		return nil, nil, wrong
	}
	asked := client.New(loaded.SocketPath())
	status, err := asked.Status(ctx)
	if err == nil && (wrong == nil || a.root != "" || reads(status, loaded.File)) {
		a.warnOf(wrong)
		return asked, inEffect(loaded, status), nil
	}
	if found, status := a.lookElsewhere(ctx, loaded); found != nil {
		a.warnOf(wrong)
		return found, inEffect(loaded, status), nil
	}
	if wrong != nil {
		return nil, nil, wrong
	}
	return asked, loaded, err
}

// elsewhereTimeout is how long a daemon that may not be the right one has for its answer.
const elsewhereTimeout = 2 * time.Second

// lookElsewhere looks for the daemon that reads the file where the state says and at the usual places: its socket may be
// another one than the file names by now. The one that the state names must also have that state: it may have been killed, and
// its socket be another's.
func (a *app) lookElsewhere(ctx context.Context, loaded *config.Loaded) (*client.Client, *api.Status) {
	if a.root != "" {
		return nil, nil // which has a socket of its own, whatever a file says
	}
	if socket := api.Recorded(loaded.Paths.State); socket != "" {
		c, status := ask(ctx, socket, loaded.File)
		if status != nil && status.Settings.State == loaded.Paths.State {
			return c, status
		}
	}
	for _, socket := range config.UsualSockets() {
		if c, status := ask(ctx, socket, loaded.File); status != nil {
			return c, status
		}
	}
	return nil, nil
}

// ask returns the daemon at a socket if it reads the file.
func ask(ctx context.Context, socket, file string) (*client.Client, *api.Status) {
	ctx, cancel := context.WithTimeout(ctx, elsewhereTimeout)
	defer cancel()
	c := client.New(socket)
	if status, err := c.Status(ctx); err == nil && reads(status, file) {
		return c, status
	}
	return nil, nil
}

// reads reports whether a daemon has its configuration from this file.
func reads(s *api.Status, file string) bool {
	return s.Settings != nil && s.Settings.ConfigFile == file
}

// inEffect is a configuration with what the daemon tells of the one that it works with.
func inEffect(loaded *config.Loaded, s *api.Status) *config.Loaded {
	if e := s.Settings; e != nil {
		loaded.Paths = config.Paths{Inbox: e.Inbox, Outbox: e.Outbox, Archive: e.Archive, State: e.State}
		loaded.Inbox.Ready, loaded.Inbox.Duplicates = config.Ready(e.Ready), config.Duplicates(e.Duplicates)
		loaded.Inbox.MaxLine, loaded.Inbox.RequireMount = config.Size(e.MaxLine), e.RequireMount
	}
	return loaded
}

// warnOf says that the configuration is wrong although the command goes on.
func (a *app) warnOf(wrong error) {
	if wrong == nil {
		return
	}
	text, more := wrong.Error(), ""
	if all := config.All(wrong); len(all) > 0 {
		text = all[0].Error()
		if len(all) > 1 {
			more = fmt.Sprintf(", and %d more", len(all)-1)
		}
	}
	fmt.Fprintf(a.stderr, "stoker: warning: the configuration is wrong: %s%s; this is what the running daemon works with\n", check.Printable(text), more)
}

// noteHidden says that a configuration is not the system's, where both are there and neither was named: its daemon is another.
func (a *app) noteHidden(loaded *config.Loaded) {
	if loaded.Hides != "" && a.root == "" {
		fmt.Fprintf(a.stderr, "stoker: note: %s is read, and not %s, for which there is --config\n", loaded.File, loaded.Hides)
	}
}

// howToStart says how to start the daemon, or what became of its service.
func (a *app) howToStart() string {
	loaded, _ := config.Salvage(a.configOptions(nil))
	for _, own := range []bool{false, true} {
		path, err := service.ConfigPath(own)
		s := service.New(service.Options{User: own})
		if err != nil || loaded == nil || a.root != "" || loaded.File != path || s.UnitFile() == "" {
			continue
		}
		status, err := s.Status()
		if err != nil || !status.Installed {
			continue // as where no systemd runs
		}
		manager, sudo, flag := "journalctl", "sudo ", ""
		if own {
			manager, sudo, flag = "journalctl --user", "", " --user"
		}
		switch status.State {
		case "inactive":
			return fmt.Sprintf("start it with '%sstoker service start%s'", sudo, flag)
		case "failed":
			return fmt.Sprintf("its service failed: %s; '%s -e -u stoker' shows more", status.Detail, manager)
		}
		return fmt.Sprintf("its service is %s (%s); '%s -e -u stoker' shows more", status.State, status.Detail, manager)
	}
	return fmt.Sprintf("start it with '%s'", a.commandLine("run"))
}
