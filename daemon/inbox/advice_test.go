package inbox

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"stoker/store/durable"
	"stoker/test/faultfs"
)

// Status says what people must do so that stoker gets the permission that it lacks, and the log where the file is.
func TestMissingPermissionIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		op     faultfs.Op
		at     string // what is refused, in the inbox
		name   string // of the operation, in the error
		advice string // for which path in the inbox
	}{
		"a file":             {faultfs.Open, "q/x.jsonl", "open", "u+r q/x.jsonl"},
		"the queue's folder": {faultfs.Rename, "q/x.jsonl", "rename", "u+w q"},
		"the claims' folder": {faultfs.Mkdir, ".processing", "mkdir", "u+w ."},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				faulty := faultfs.New(durable.Local{})
				refused := r.path(test.at)
				faulty.Set(func(op faultfs.Op, path string) error {
					if op == test.op && (path == refused || op == faultfs.Rename) { // of which it knows where to
						return &fs.PathError{Op: test.name, Path: path, Err: unix.EACCES}
					}
					return nil
				})
				var log strings.Builder
				r.o.FS, r.o.Logger = faulty, zerolog.New(&log)
				r.write("q/x.jsonl", line)
				r.run()
				r.pass(time.Minute)
				how, at, _ := strings.Cut(test.advice, " ")
				r.wantReason("q/x.jsonl", "permission denied: 'chmod "+how+" "+filepath.Clean(r.path(at))+"' lets stoker")
				if test.op != faultfs.Open && !strings.Contains(log.String(), `"queue":"q","name":"x.jsonl","reason":"permission denied: 'chmod`) {
					t.Error(log.String())
				}
				faulty.Set(nil)
				r.pass(2 * time.Minute)
				r.want("q/x.jsonl")
			})
		})
	}
}

// A queue whose folder cannot be looked into is named, too.
func TestFolderThatCannotBeLookedInto(t *testing.T) {
	bubble(t, func(r *rig) {
		faulty := faultfs.New(durable.Local{})
		faulty.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.ReadDir && path == r.path("a b") {
				return &os.PathError{Op: "open", Path: path, Err: unix.EACCES}
			}
			return nil
		})
		r.o.FS = faulty
		r.write("a b/x.jsonl", line)
		r.run()
		r.pass(time.Minute)
		r.wantReason("a b", `cannot be read: permission denied: 'chmod u+rwx "`+r.path("a b")+`"' lets stoker`)
	})
}
