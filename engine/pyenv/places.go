package pyenv

import (
	"cmp"
	"errors"
	"path/filepath"

	"stoker/engine/environment"
)

// Places says where Setup puts what it makes.
type Places struct {
	Venv   string // the virtual environment
	Models string // folder of model folders
	Tools  string // uv, if Setup had to fetch it
	Config string // the configuration file
}

// DefaultPlaces are the ones for this user: below root if that is set; for the superuser, on whose behalf the system
// service runs, in /var/lib/stoker and /etc/stoker; else where XDG says. The configuration file is config if that is set,
// else $STOKER_CONFIG if that is. All are absolute.
func DefaultPlaces(root, config string, environ []string, superuser bool) (Places, error) {
	p, err := basePlaces(root, environ, superuser)
	if err != nil {
		return Places{}, err
	}
	if config = cmp.Or(config, environment.Get(environ, "STOKER_CONFIG")); config != "" {
		p.Config = config
	}
	for _, path := range []*string{&p.Venv, &p.Models, &p.Tools, &p.Config} {
		if *path, err = filepath.Abs(*path); err != nil {
			return Places{}, err
		}
	}
	return p, nil
}

func basePlaces(root string, environ []string, superuser bool) (Places, error) {
	if root != "" {
		return Places{
			Venv:   filepath.Join(root, ".venv"),
			Models: filepath.Join(root, "models"),
			Tools:  filepath.Join(root, ".tools"),
			Config: filepath.Join(root, "config.toml"),
		}, nil
	}
	data, conf := "/var/lib/stoker", "/etc/stoker"
	if !superuser {
		home := environment.Get(environ, "HOME")
		xdg := func(name, fallback string) string {
			if dir := environment.Get(environ, name); filepath.IsAbs(dir) {
				return filepath.Join(dir, "stoker")
			}
			return filepath.Join(home, fallback, "stoker")
		}
		data, conf = xdg("XDG_DATA_HOME", ".local/share"), xdg("XDG_CONFIG_HOME", ".config")
		if !filepath.IsAbs(data) || !filepath.IsAbs(conf) {
			return Places{}, errors.New("find a place for the environment: $HOME is not set")
		}
	}
	return Places{
		Venv:   filepath.Join(data, "venv"),
		Models: filepath.Join(data, "models"),
		Tools:  filepath.Join(data, "tools"),
		Config: filepath.Join(conf, "config.toml"),
	}, nil
}
