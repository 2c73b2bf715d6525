// Package config reads stoker's TOML configuration, strictly: an unknown key, a wrong type or an impossible value is
// refused with file, line and column before anything starts.
package config

import "time"

// Config is the whole configuration. Default returns the values that hold where a file is silent.
type Config struct {
	Paths    Paths            `toml:"paths"`
	Run      Run              `toml:"run"`
	Inbox    Inbox            `toml:"inbox"`
	Outbox   Outbox           `toml:"outbox"`
	Engine   Engine           `toml:"engine"`
	Defaults map[string]any   `toml:"defaults"` // request parameters that a line leaves out
	Queue    map[string]Queue `toml:"queue"`    // by the name of the inbox's sub-folder
	API      API              `toml:"api"`
	Log      Log              `toml:"log"`
}

// Paths are absolute once loaded. State must be on a local disk; the others may be on shares.
type Paths struct {
	Inbox   string `toml:"inbox"`
	Outbox  string `toml:"outbox"`
	Archive string `toml:"archive"`
	State   string `toml:"state"`
}

// Run holds what concerns the process itself.
type Run struct {
	Drain Duration `toml:"drain"` // how long SIGTERM lets requests in flight finish; default 60s
}

// Inbox says when a dropped file counts as complete.
type Inbox struct {
	Watch      Watch        `toml:"watch"`      // auto: poll on NFS, SMB, FUSE; notify elsewhere
	Settle     AutoDuration `toml:"settle"`     // auto: 2s, 15s on NFS, SMB, FUSE
	Rescan     Duration     `toml:"rescan"`     // full scan beside the events, default 30s
	Poll       Duration     `toml:"poll"`       // scan interval where there are no events, default 2s
	TailGrace  Duration     `toml:"tail_grace"` // how long a file without final newline waits, default 60s
	Ready      Ready        `toml:"ready"`
	MaxLine    Size         `toml:"max_line"` // default 16MiB
	Duplicates Duplicates   `toml:"duplicates"`
	Strict     bool         `toml:"strict"` // refuse a whole file for one bad line
	// RequireMount takes files only while the inbox is a mount point. Outbox and archive must stay on the mount where they
	// were seen first.
	RequireMount bool `toml:"require_mount"`
}

// Outbox says how results are published.
type Outbox struct {
	Order Order  `toml:"order"`
	Mode  Mode   `toml:"mode"`  // permission bits of result files, default 0664
	Group string `toml:"group"` // group of result files, name or number; empty: the process's or the setgid folder's
	Notes bool   `toml:"notes"` // NAME.status.txt while a batch waits or runs
}

// Engine names what answers the requests.
type Engine struct {
	Kind                 Kind              `toml:"kind"`
	Model                string            `toml:"model"` // folder or hub name; required for vllm
	Revision             string            `toml:"revision"`
	Python               string            `toml:"python"` // interpreter or venv folder with vLLM; empty: found, as engine/pyenv does
	HFHome               string            `toml:"hf_home"`
	HFTokenFile          string            `toml:"hf_token_file"`
	ServedNames          []string          `toml:"served_names"`           // "*": a line may name any model
	MaxModelLen          int               `toml:"max_model_len"`          // tokens; 0: the model's own
	GPUMemoryUtilization float64           `toml:"gpu_memory_utilization"` // of all replicas on a GPU together, 0 < u <= 1; 0: vLLM's default, and 0.9 for several
	Replicas             Replicas          `toml:"replicas"`               // workers, each with the model, spread over the GPUs; default 1
	InFlight             int               `toml:"in_flight"`              // of each replica; 0: 1.25 x the engine's batch size, fewer while its KV cache is full
	LoadStall            Duration          `toml:"load_stall"`             // longest silence while loading, default 10m
	Hang                 Duration          `toml:"hang"`                   // longest time without a token while requests are in flight, default 5m
	Args                 map[string]any    `toml:"args"`                   // vLLM engine arguments by their Python names; of echo: delay, load_delay, fail_every, crash_on, hang_on
	Env                  map[string]string `toml:"env"`                    // environment for the worker; values are never printed
}

// Queue holds what differs for the files of inbox/QUEUE/.
type Queue struct {
	Defaults map[string]any `toml:"defaults"`
}

// API says where the daemon listens for the commands.
type API struct {
	Socket string `toml:"socket"` // Unix socket; empty: /run/stoker/stoker.sock for root, else in $XDG_RUNTIME_DIR, else in the state folder
}

// Log says what is logged, and how.
type Log struct {
	Level   string    `toml:"level"` // debug, info, warn, error; default info
	Format  LogFormat `toml:"format"`
	Content bool      `toml:"content"` // allow prompts and answers in logs; default false
}

// The words that settings may have.
type (
	Watch      string
	Ready      string
	Duplicates string
	Order      string
	Kind       string
	LogFormat  string
)

const (
	WatchAuto   Watch = "auto"
	WatchNotify Watch = "notify"
	WatchPoll   Watch = "poll"

	ReadySettle  Ready = "settle"
	ReadyRename  Ready = "rename"
	ReadySidecar Ready = "sidecar"

	DuplicatesRun  Duplicates = "run"
	DuplicatesSkip Duplicates = "skip"

	OrderInput      Order = "input"
	OrderCompletion Order = "completion"

	KindVLLM Kind = "vllm"
	KindEcho Kind = "echo"

	LogAuto    LogFormat = "auto"
	LogJSON    LogFormat = "json"
	LogConsole LogFormat = "console"
	LogJournal LogFormat = "journal"
)

// Duration is written with a unit: "2s", "30d". Bare numbers are refused.
type Duration time.Duration

// Replicas is a number of workers.
type Replicas int

// AutoReplicas is as many as the GPUs allow, one without GPUs: "auto".
const AutoReplicas Replicas = 0

// AutoDuration is a Duration or "auto".
type AutoDuration struct {
	Auto  bool
	Value time.Duration // meaningless when Auto
}

// Size is in bytes and written with a unit: "16MiB", "512KB".
type Size int64

// Mode holds permission bits, written in octal in a string: "0664".
type Mode uint32
