package inbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store/durable"
)

// smallDisk puts a test's folders on a filesystem of so many bytes, for which it needs root.
func smallDisk(t *testing.T, bytes int64) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	t.Setenv("TMPDIR", dir)
}

// Files that are copied at the same time leave free, together, what must stay so: else nothing would be submitted any more,
// nothing would end, and no room would come.
func TestManyFilesLeaveTheReserve(t *testing.T) {
	smallDisk(t, 96<<20)
	bubble(t, func(r *rig) {
		for i := range 16 {
			r.write(fmt.Sprintf("x%d.jsonl", i), fmt.Sprintf("{\"prompt\":\"%d%s\"}\n", i, strings.Repeat("a", 1<<20-100)))
		}
		space, err := durable.SpaceOf(r.dir)
		if err != nil {
			t.Fatal(err)
		}
		const room = 4 << 20 // beside the reserve
		fill, err := os.Create(filepath.Join(r.dir, "fill"))
		if err != nil {
			t.Fatal(err)
		}
		defer fill.Close()
		if _, err := fill.Write(make([]byte, space.Free-space.Total/16-room)); err != nil {
			t.Fatal(err)
		}
		r.run()
		r.pass(time.Hour)
		if n := len(r.names()); n == 0 || n > 4 {
			t.Errorf("%d files of 1 MiB were taken into 4 MiB", n)
		}
		if err := r.store.Cramped(); err != nil {
			t.Errorf("they used up what must stay free: %v", err)
		}
	})
}
