package pyenv

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDefaultPlaces(t *testing.T) {
	home := []string{"HOME=/home/u"}
	for _, tc := range []struct {
		name, root, config string
		environ            []string
		superuser          bool
		want               Places
	}{
		{"root folder", "/srv/x", "", home, true, Places{"/srv/x/.venv", "/srv/x/models", "/srv/x/.tools", "/srv/x/config.toml"}},
		{"config named", "/srv/x", "/etc/y.toml", home, true, Places{"/srv/x/.venv", "/srv/x/models", "/srv/x/.tools", "/etc/y.toml"}},
		{"superuser", "", "", home, true, Places{"/var/lib/stoker/venv", "/var/lib/stoker/models", "/var/lib/stoker/tools", "/etc/stoker/config.toml"}},
		{"user", "", "", home, false, Places{"/home/u/.local/share/stoker/venv", "/home/u/.local/share/stoker/models",
			"/home/u/.local/share/stoker/tools", "/home/u/.config/stoker/config.toml"}},
		{"user with XDG", "", "", append(home, "XDG_DATA_HOME=/d", "XDG_CONFIG_HOME=relative", "STOKER_CONFIG=/c.toml"), false,
			Places{"/d/stoker/venv", "/d/stoker/models", "/d/stoker/tools", "/c.toml"}},
	} {
		got, err := DefaultPlaces(tc.root, tc.config, tc.environ, tc.superuser)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tc.name, diff)
		}
	}
	if _, err := DefaultPlaces("", "", nil, false); err == nil {
		t.Error("no error without $HOME")
	}
}
