package config

import "time"

// Default returns a new configuration with every default in place. Its maps are nil.
func Default() Config {
	return Config{
		Paths: Paths{
			Inbox:   "/srv/stoker/inbox",
			Outbox:  "/srv/stoker/outbox",
			Archive: "/srv/stoker/archive",
			State:   "/var/lib/stoker",
		},
		Run: Run{Drain: Duration(60 * time.Second)},
		Inbox: Inbox{
			Watch:      WatchAuto,
			Settle:     AutoDuration{Auto: true},
			Rescan:     Duration(30 * time.Second),
			Poll:       Duration(2 * time.Second),
			TailGrace:  Duration(60 * time.Second),
			Ready:      ReadySettle,
			MaxLine:    16 << 20,
			Duplicates: DuplicatesRun,
		},
		Outbox: Outbox{Order: OrderInput, Mode: 0o664, Notes: true},
		Engine: Engine{
			Kind:        KindVLLM,
			ServedNames: []string{"*"},
			Replicas:    1,
			LoadStall:   Duration(10 * time.Minute),
			Hang:        Duration(5 * time.Minute),
		},
		Log: Log{Level: "info", Format: LogAuto},
	}
}
