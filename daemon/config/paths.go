package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// maxSocketPath is the longest path, in bytes, that stoker itself chooses for a socket. The kernel's sun_path holds
// 108 with the final zero (unix(7)); the rest is room for a temporary name beside it.
const maxSocketPath = 100

// pathResolver makes the configuration's paths absolute. Symbolic links are left as they are: a Python environment is
// known by the path of its link.
type pathResolver struct {
	loaded *Loaded
	cwd    string // relative paths of the environment and of flags start here
	home   string // what ~ stands for; "" if unknown
	errs   Errors
}

func newPathResolver(l *Loaded, env map[string]string) (*pathResolver, error) {
	cwd, err := filepath.Abs(".")
	if err != nil {
		return nil, &Error{Message: "find the working directory: " + err.Error()}
	}
	return &pathResolver{loaded: l, cwd: cwd, home: env["HOME"]}, nil
}

func (p *pathResolver) resolve() {
	c := &p.loaded.Config
	p.path("paths.inbox", &c.Paths.Inbox)
	p.path("paths.outbox", &c.Paths.Outbox)
	p.path("paths.archive", &c.Paths.Archive)
	p.path("paths.state", &c.Paths.State)
	p.path("engine.python", &c.Engine.Python)
	p.path("engine.hf_home", &c.Engine.HFHome)
	p.path("engine.hf_token_file", &c.Engine.HFTokenFile)
	p.path("api.socket", &c.API.Socket)
	if isModelPath(c.Engine.Model) {
		p.path("engine.model", &c.Engine.Model)
	}
}

// isModelPath tells a folder from a hub name, which may contain a slash too.
func isModelPath(model string) bool {
	for _, prefix := range []string{"/", "./", "../", "~/"} {
		if strings.HasPrefix(model, prefix) {
			return true
		}
	}
	return false
}

// path makes one setting absolute; an empty one stays empty.
func (p *pathResolver) path(name string, path *string) {
	from := p.loaded.Origin(name)
	base := p.cwd
	if from.Source == FromFile {
		base = filepath.Dir(from.Name)
	}
	switch {
	case *path == "":
	case strings.Contains(*path, "\x00"):
		p.errs = append(p.errs, from.refuse(strings.Split(name, "."), &badValue{message: "a path cannot contain a zero byte"}))
	case *path == "~" || strings.HasPrefix(*path, "~/"):
		if p.home == "" {
			p.errs = append(p.errs, from.refuse(strings.Split(name, "."), &badValue{
				message: "~ stands for nothing: $HOME is not set",
				hint:    "write the whole path",
			}))
			return
		}
		*path = filepath.Join(p.home, strings.TrimPrefix(*path, "~"))
	case filepath.IsAbs(*path):
		*path = filepath.Clean(*path)
	default:
		*path = filepath.Join(base, *path)
	}
}

// useRoot puts everything under root, which is absolute.
func (l *Loaded) useRoot(root, runtimeDir string) {
	l.Paths = Paths{
		Inbox:   filepath.Join(root, "inbox"),
		Outbox:  filepath.Join(root, "outbox"),
		Archive: filepath.Join(root, "archive"),
		State:   filepath.Join(root, ".state"),
	}
	l.API.Socket = fitSocket(filepath.Join(l.Paths.State, "stoker.sock"), runtimeDir)
	for _, name := range []string{"paths.inbox", "paths.outbox", "paths.archive", "paths.state", "api.socket"} {
		l.origins[name] = Origin{Source: FromFlag, Name: "--root"}
	}
}

// SocketPath returns the Unix socket's path. If api.socket is empty it is /run/stoker/stoker.sock for root, else
// stoker.sock in $XDG_RUNTIME_DIR, else stoker.sock in the state folder. Where that is too long for a socket it is a
// short path made from it in /tmp, in a folder that whoever listens must make with mode 0700 and find its own.
func (c *Config) SocketPath() string {
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	switch {
	case c.API.Socket != "":
		return c.API.Socket
	case os.Geteuid() == 0:
		return serviceSocket
	case filepath.IsAbs(runtimeDir):
		return runtimeSocket(runtimeDir)
	}
	return fitSocket(filepath.Join(c.Paths.State, "stoker.sock"), "")
}

// UsualSockets are where daemons listen whose configuration says nothing else, or what the packages' says.
func UsualSockets() []string {
	sockets := []string{serviceSocket}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		sockets = append(sockets, runtimeSocket(dir))
	}
	return sockets
}

const serviceSocket = "/run/stoker/stoker.sock"

func runtimeSocket(dir string) string { return fitSocket(filepath.Join(dir, "stoker.sock"), "") }

// fitSocket returns path, or a short path that only path leads to if it is too long for a socket: in runtimeDir if
// there is one and it fits, else in a folder of the user's own in /tmp.
func fitSocket(path, runtimeDir string) string {
	if len(path) <= maxSocketPath {
		return path
	}
	sum := sha256.Sum256([]byte(path))
	hash := hex.EncodeToString(sum[:4])
	if filepath.IsAbs(runtimeDir) {
		if short := filepath.Join(runtimeDir, "stoker-"+hash+".sock"); len(short) <= maxSocketPath {
			return short
		}
	}
	return fmt.Sprintf("/tmp/stoker-%d-%s/stoker.sock", os.Geteuid(), hash)
}
