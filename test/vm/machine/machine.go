// Package machine runs a virtual machine: QEMU on a kernel and disks, commanded through its guest agent. Its power can be
// cut.
package machine

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Config is the machine's parts. The first disk is the root's.
type Config struct {
	Kernel, Initrd string
	Disks          []Disk
	Console        string // the file to which the serial console's output is added
	MemoryMiB      int
}

// Disk is a file that is one.
type Disk struct {
	Serial   string // its name in the machine
	File     string
	Format   string // raw or qcow2
	ReadOnly bool
}

// Machine is one life of a virtual machine, from power-on to its end.
type Machine struct {
	Started time.Time
	console string
	from    int64 // where this life begins in the console's file
	qemu    *exec.Cmd
	ended   chan struct{} // closed when QEMU is gone
	errors  bytes.Buffer  // what QEMU said; to be read when it has ended
	agent   *agent
}

// PowerOn starts a machine and waits for nothing.
func PowerOn(c Config) (*Machine, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	m := &Machine{Started: time.Now(), console: c.Console, ended: make(chan struct{}), agent: newAgent(ours)}
	if info, err := os.Stat(c.Console); err == nil {
		m.from = info.Size()
	}
	m.qemu = exec.Command("qemu-system-x86_64", arguments(c)...)
	m.qemu.Stdout, m.qemu.Stderr = &m.errors, &m.errors
	m.qemu.ExtraFiles = []*os.File{theirs} // becomes agentFD
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := m.qemu.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start a virtual machine: %w", err)
	}
	go func() {
		defer close(m.ended)
		m.qemu.Wait()
		ours.Close()
	}()
	return m, nil
}

// agentFD is the descriptor at which QEMU finds the agent's connection.
const agentFD = 3

// kernelOptions beside what is needed to boot: nobody else is on the machine, and its log is stoker's.
const kernelOptions = "root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0 " +
	"systemd.show_status=0 systemd.log_level=notice"

// emulated are options for a processor that a busy host may halt at any moment, for as long as it likes: neither is that a
// fault of the timers, nor can the speed of its counter be measured.
const emulated = " no_timer_check tsc=unstable clocksource=hpet nowatchdog"

func arguments(c Config) []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-smp", "1", "-m", fmt.Sprint(c.MemoryMiB),
		"-kernel", c.Kernel, "-initrd", c.Initrd,
		"-chardev", "file,id=console,append=on,path=" + c.Console, "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", agentFD),
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
	}
	if Accelerator() == kvm {
		args = append(args, "-accel", kvm, "-cpu", "host", "-append", kernelOptions)
	} else {
		args = append(args, "-accel", tcg+",thread=multi", "-cpu", "max", "-append", kernelOptions+emulated)
	}
	for i, d := range c.Disks {
		// A flush of the machine's is an fsync of the file, and nothing else is one.
		drive := fmt.Sprintf("if=none,id=disk%d,file=%s,format=%s,cache=writeback,discard=ignore,detect-zeroes=off", i, d.File, d.Format)
		if d.ReadOnly {
			drive += ",readonly=on"
		}
		args = append(args, "-drive", drive, "-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,serial=%s,discard=off,write-zeroes=off", i, d.Serial))
	}
	return args
}

// Accelerator names what the machines run on: KVM where the processor has it, else an emulation of a processor.
func Accelerator() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !bytes.Contains(info, []byte(" vmx ")) && !bytes.Contains(info, []byte(" svm ")) {
		return tcg
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return tcg
	}
	device.Close()
	return kvm
}

const (
	kvm = "kvm"
	tcg = "tcg"
)

// socketPair returns two ends of a connection.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("connect a machine's agent: %w", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "agent")
	defer mine.Close()
	theirs = os.NewFile(uintptr(fds[1]), "agent")
	if ours, err = net.FileConn(mine); err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("connect a machine's agent: %w", err)
	}
	return ours, theirs, nil
}

// CutPower ends the machine at once.
func (m *Machine) CutPower() {
	m.qemu.Process.Kill()
	<-m.ended
}

// AwaitOff waits until the machine has switched itself off, or was about to start again.
func (m *Machine) AwaitOff(patience time.Duration) error {
	select {
	case <-m.ended:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the machine is still on after %s", patience)
	}
}

// Off reports whether the machine is off.
func (m *Machine) Off() bool {
	select {
	case <-m.ended:
		return true
	default:
		return false
	}
}

// Console is what the machine wrote to its serial console in this life.
func (m *Machine) Console() string {
	text, _ := os.ReadFile(m.console)
	return strings.ReplaceAll(string(text[min(m.from, int64(len(text))):]), "\r", "")
}

// AwaitConsole waits until the console has shown all of these, in this order, and returns how long after power-on that was.
func (m *Machine) AwaitConsole(patience time.Duration, texts ...string) (time.Duration, error) {
	for {
		rest, missing := m.Console(), ""
		for _, text := range texts {
			_, after, found := strings.Cut(rest, text)
			if !found {
				missing = text
				break
			}
			rest = after
		}
		took := time.Since(m.Started)
		switch {
		case missing == "":
			return took, nil
		case m.Off():
			return took, fmt.Errorf("the machine is off before its console shows %q: %s", missing, m.errors.String())
		case took > patience:
			return took, fmt.Errorf("the console does not show %q after %s", missing, patience)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// ErrOff says that the machine went off, or was off, before it had answered.
var ErrOff = errors.New("the machine is off")

// Run runs a shell script as root in the machine, as soon as its agent is there.
func (m *Machine) Run(script, stdin string) (Result, error) {
	r, err := m.agent.run(script, stdin)
	if err != nil && m.endsSoon() {
		return r, ErrOff
	}
	return r, err
}

// endsSoon tells a connection that broke because QEMU ended from any other one.
func (m *Machine) endsSoon() bool {
	select {
	case <-m.ended:
		return true
	case <-time.After(time.Second):
		return false
	}
}

// Overlay makes a disk that begins as another one is, and leaves that as it is.
func Overlay(path string, base Disk) (Disk, error) {
	from, err := filepath.Abs(base.File)
	if err != nil {
		return Disk{}, err
	}
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", from, "-F", base.Format, path).CombinedOutput()
	if err != nil {
		return Disk{}, fmt.Errorf("make a disk over %s: %w: %s", base.File, err, out)
	}
	return Disk{Serial: base.Serial, File: path, Format: "qcow2"}, nil
}
