//go:build vm

package vm

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// share is a protocol, and the options that a folder is mounted with.
type share struct {
	kind  string // of mount -t
	name  string
	mount string // options for a person, or for the service
}

var shares = []share{
	{"nfs", "nfs3", "vers=3"},
	{"nfs", "nfs4", "vers=4.2"},
	{"cifs", "smb", "vers=3.1.1"},
}

// sharing are settings for shares: when a file has settled is decided as it is by default.
const sharing = `[inbox]
rescan = "5s"
[log]
level = "debug"
[engine]
kind = "echo"
[engine.args]
delay = "20ms"
[api]
socket = "/run/stoker/stoker.sock"
`

// serve makes the machine a file server of folders, and gives it people who may write there.
func (g *guest) serve(dirs ...string) {
	g.t.Helper()
	var exports, smb strings.Builder
	smb.WriteString("[global]\nserver role = standalone server\nlog level = 0\nload printers = no\ndisable spoolss = yes\nsmb ports = 445\n")
	for _, dir := range dirs {
		fmt.Fprintf(&exports, "%s 127.0.0.1(rw,sync,no_subtree_check)\n", dir)
		fmt.Fprintf(&smb, "[%s]\npath = %s\nread only = no\nvalid users = @stoker\nforce group = stoker\ncreate mask = 0664\ndirectory mask = 2775\n", shareName(dir), dir)
	}
	g.sh("mkdir -p %s", strings.Join(dirs, " "))
	g.write("/etc/exports", exports.String())
	g.write("/etc/samba/smb.conf", smb.String())
	g.sh(`useradd -m -G stoker alice
		for user in alice stoker; do printf 'secret\nsecret\n' | smbpasswd -s -a $user >/dev/null; done
		systemctl start rpcbind nfs-server smbd`)
}

func shareName(dir string) string { return strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-") }

// mountAt is the command that mounts a served folder, or one below it, for a user. No mount shares what it caches with
// another one.
func (s share) mountAt(at, dir, below, user string) string {
	if s.kind == "nfs" {
		return fmt.Sprintf("mkdir -p %[1]s; mount -t nfs -o %[2]s,nosharecache 127.0.0.1:%[3]s%[4]s %[1]s", at, s.mount, dir, below)
	}
	return fmt.Sprintf("mkdir -p %[1]s; mount -t cifs -o %[2]s,nosharesock,username=%[3]s,password=secret,uid=%[3]s,gid=stoker,file_mode=0664,dir_mode=02775 //127.0.0.1/%[4]s%[5]s %[1]s",
		at, s.mount, user, shareName(dir), below)
}

// writers put /tmp/$name into $folder, as programs of some kind do.
var writers = map[string]string{
	"copied":  `cp /tmp/$name $folder/$name`,
	"renamed": `cp /tmp/$name $folder/$name.part; sleep 3; mv $folder/$name.part $folder/$name`,
	"hidden":  `cp /tmp/$name $folder/.$name.Xa3f; mv $folder/.$name.Xa3f $folder/$name`,
	// In pieces that end within a line, with pauses longer than the time in which a file settles.
	"slow": `exec 3> $folder/$name
		size=$(stat -c %s /tmp/$name); piece=$((size / 4 + 3))
		for i in 0 1 2 3; do dd if=/tmp/$name bs=$piece skip=$i count=1 status=none >&3; sleep 3; done`,
	// Opened, written and closed again for each piece.
	"appended": `size=$(stat -c %s /tmp/$name); piece=$((size / 3 + 3))
		for i in 0 1 2; do dd if=/tmp/$name bs=$piece skip=$i count=1 status=none >> $folder/$name; sleep 3; done`,
}

// writeAll has a file written by each kind of writer, all at a time, and returns what was written. All are alice.
func (g *guest) writeAll(prefix, folder string) (inputs []rig.Input, err error) {
	var (
		wg   sync.WaitGroup
		errs = make(chan error, len(writers))
	)
	for kind, script := range writers {
		stem := prefix + "-" + kind
		in := rig.Input{Name: stem + ".jsonl", Lines: rig.Good(stem, 200)}
		inputs = append(inputs, in)
		g.write("/tmp/"+kind+".sh", script)
		wg.Go(func() {
			_, err := g.feed(in.Content(), "cat > /tmp/%[1]s; chmod 644 /tmp/%[1]s; sudo -u alice env name=%[1]s folder=%[2]s bash -eu /tmp/%[3]s.sh",
				in.Name, folder, kind)
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return inputs, err
}

// TestServerOfShares proves that files are taken whole which people write through shares into an inbox that the machine
// serves.
func TestServerOfShares(t *testing.T) {
	t.Parallel()
	began := time.Now()
	g := newGuest(t, installed.root(t))
	g.configure(sharing)
	g.serve("/srv/stoker")
	var inputs []rig.Input
	for _, s := range shares {
		at := "/mnt/" + s.name
		g.sh("%s", s.mountAt(at, "/srv/stoker", "", "alice"))
		written, err := g.writeAll(s.name, at+"/inbox")
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		inputs = append(inputs, written...)
	}
	_, tally, err := g.end(local, inputs...)
	if err != nil {
		t.Error(err)
	}
	figures.Report(t, figures.Figures{
		Suite: "files written through shares that the machine serves", Count: len(inputs), Lost: tally.Lost, Doubled: tally.Doubled,
		Note: "over NFSv3, NFSv4.2 and SMB 3.1.1, by slow writers and by those that rename", Seconds: int(time.Since(began).Seconds()),
	})
}

// TestClientOfShares proves the same of folders that the machine mounts from a server, whose other clients write there.
func TestClientOfShares(t *testing.T) {
	t.Parallel()
	began := time.Now()
	g := newGuest(t, installed.root(t))
	g.serve("/export")
	row := figures.Figures{Suite: "files taken from shares that the machine mounts", Note: "as in the row before, also by the server itself"}
	for _, s := range shares {
		files, tally, err := g.client(s)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		row.Count += files
		row.Lost += tally.Lost
		row.Doubled += tally.Doubled
	}
	row.Seconds = int(time.Since(began).Seconds())
	figures.Report(t, row)
}

// client has stoker work on a mounted share.
func (g *guest) client(s share) (files int, tally rig.Tally, err error) {
	served, mounted, others := "/export/"+s.name, "/mnt/stoker-"+s.name, "/mnt/alice-"+s.name
	f := folders{mounted + "/inbox", mounted + "/outbox", mounted + "/archive", "/var/lib/stoker/" + s.name}
	g.sh("install -d -o stoker -g stoker -m 2775 /export %[1]s %[1]s/inbox %[1]s/outbox %[1]s/archive", served)
	g.sh("%s; %s", s.mountAt(mounted, "/export", "/"+s.name, "stoker"), s.mountAt(others, "/export", "/"+s.name, "alice"))
	g.configure(f.settings() + sharing)
	here, err1 := g.writeAll(s.name+"-server", served+"/inbox")
	there, err2 := g.writeAll(s.name+"-client", others+"/inbox")
	if err := errors.Join(err1, err2); err != nil {
		return 0, tally, err
	}
	inputs := append(here, there...)
	_, tally, err = g.end(f, inputs...)
	return len(inputs), tally, err
}
