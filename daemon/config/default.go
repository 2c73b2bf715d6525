package config

import "time"

// What holds where the configuration is silent.
const (
	DefaultInbox   = "/srv/stoker/inbox"
	DefaultOutbox  = "/srv/stoker/outbox"
	DefaultArchive = "/srv/stoker/archive"
	DefaultState   = "/var/lib/stoker"

	DefaultDrain     = 60 * time.Second
	DefaultRescan    = 30 * time.Second
	DefaultPoll      = 2 * time.Second
	DefaultTailGrace = 60 * time.Second
	DefaultMaxLine   = 16 << 20 // bytes
	DefaultMode      = 0o664
	DefaultLoadStall = 10 * time.Minute
	DefaultHang      = 5 * time.Minute
	DefaultLogLevel  = "info"
)

// Default returns a new configuration with every default in place. Its maps are nil.
func Default() Config {
	return Config{
		Paths: Paths{
			Inbox:   DefaultInbox,
			Outbox:  DefaultOutbox,
			Archive: DefaultArchive,
			State:   DefaultState,
		},
		Run: Run{Drain: Duration(DefaultDrain)},
		Inbox: Inbox{
			Watch:      WatchAuto,
			Settle:     AutoDuration{Auto: true},
			Rescan:     Duration(DefaultRescan),
			Poll:       Duration(DefaultPoll),
			TailGrace:  Duration(DefaultTailGrace),
			Ready:      ReadySettle,
			MaxLine:    DefaultMaxLine,
			Duplicates: DuplicatesRun,
		},
		Outbox: Outbox{Order: OrderInput, Mode: DefaultMode, Notes: true},
		Engine: Engine{
			Kind:        KindVLLM,
			ServedNames: []string{"*"},
			Replicas:    1,
			LoadStall:   Duration(DefaultLoadStall),
			Hang:        Duration(DefaultHang),
		},
		Log: Log{Level: DefaultLogLevel, Format: LogAuto},
	}
}
