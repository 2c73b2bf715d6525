package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	wantDuration     = `a duration with a unit, like "2s", "1h30m" or "30d"`
	wantAutoDuration = `"auto" or ` + wantDuration
	wantReplicas     = `"auto", or 1 or more`
	wantSize         = `a size with a unit, like "16MiB" or "512KB"`
	wantMode         = `permission bits in octal, in quotes, like "0664"`
)

const day = 24 * time.Hour

// ParseDuration reads what time.ParseDuration reads, with days in front ("30d", "1d12h"). A number without a unit and a
// negative duration are refused.
func ParseDuration(s string) (time.Duration, error) {
	refused := wantGot(wantDuration, strconv.Quote(s))
	days, rest, found := strings.Cut(s, "d")
	if !found {
		days, rest = "0", s
	}
	n, err := strconv.ParseUint(days, 10, 32)
	if err != nil || n > uint64(math.MaxInt64/day) {
		return 0, refused
	}
	var d time.Duration
	if rest != "" || !found {
		if d, err = time.ParseDuration(rest); err != nil || !strings.ContainsAny(rest, "smh") {
			return 0, refused
		}
	}
	if d < 0 {
		return 0, wantGot("a duration of 0s or more", strconv.Quote(s))
	}
	if total := time.Duration(n)*day + d; total >= 0 {
		return total, nil
	}
	return 0, refused
}

func formatDuration(d time.Duration) string {
	days, rest := d/day, d%day
	text := rest.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	switch {
	case days == 0:
		return text
	case rest == 0:
		return fmt.Sprintf("%dd", days)
	}
	return fmt.Sprintf("%dd%s", days, text)
}

// String is the shortest text that UnmarshalText reads as this duration.
func (d Duration) String() string { return formatDuration(time.Duration(d)) }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = Duration(parsed)
	return nil
}

func (Duration) want() string { return wantDuration }

// String is "auto" or the duration.
func (d AutoDuration) String() string {
	if d.Auto {
		return "auto"
	}
	return formatDuration(d.Value)
}

// MarshalText implements encoding.TextMarshaler.
func (d AutoDuration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *AutoDuration) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*d = AutoDuration{Auto: true}
		return nil
	}
	parsed, err := ParseDuration(string(text))
	if err != nil {
		return wantGot(wantAutoDuration, strconv.Quote(string(text)))
	}
	*d = AutoDuration{Value: parsed}
	return nil
}

func (AutoDuration) want() string { return wantAutoDuration }

// MarshalText implements encoding.TextMarshaler.
func (r Replicas) MarshalText() ([]byte, error) {
	if r == AutoReplicas {
		return []byte("auto"), nil
	}
	return strconv.AppendInt(nil, int64(r), 10), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Replicas) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	switch {
	case string(text) == "auto":
		*r = AutoReplicas
	case err != nil || n < 1:
		return wantGot(wantReplicas, strconv.Quote(string(text)))
	default:
		*r = Replicas(n)
	}
	return nil
}

func (Replicas) want() string { return wantReplicas }

// sizeUnit is a unit of sizes and the bytes in it.
type sizeUnit struct {
	name  string
	bytes int64
}

// sizeUnits lists the units, those that String prefers first.
func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1},
	}
}

var sizePattern = regexp.MustCompile(`^([0-9]+) ?([A-Za-z]+)$`)

// String is the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits() {
		if n := int64(s); n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. KiB, MiB, GiB and TiB are powers of 1024, KB, MB, GB and TB of
// 1000; case does not matter.
func (s *Size) UnmarshalText(text []byte) error {
	if m := sizePattern.FindStringSubmatch(string(text)); m != nil {
		n, err := strconv.ParseInt(m[1], 10, 64)
		for _, u := range sizeUnits() {
			if err == nil && strings.EqualFold(m[2], u.name) && n <= math.MaxInt64/u.bytes {
				*s = Size(n * u.bytes)
				return nil
			}
		}
	}
	return wantGot(wantSize, strconv.Quote(string(text)))
}

func (Size) want() string { return wantSize }

// String has four octal digits.
func (m Mode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// MarshalText implements encoding.TextMarshaler.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. Only the nine permission bits may be set.
func (m *Mode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(strings.TrimPrefix(string(text), "0o"), 8, 32)
	if err != nil || n > 0o777 || len(text) < 3 {
		return wantGot(wantMode, strconv.Quote(string(text)))
	}
	*m = Mode(n)
	return nil
}

func (Mode) want() string { return wantMode }
