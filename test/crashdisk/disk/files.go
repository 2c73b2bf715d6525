package disk

import (
	"context"
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// file is a disk of a rack as a file, for a loop device to be made of.
type file struct {
	fs.Inode
	rack *rack
	disk int
}

var (
	_ fs.NodeGetattrer = (*file)(nil)
	_ fs.NodeSetattrer = (*file)(nil)
	_ fs.NodeOpener    = (*file)(nil)
	_ fs.NodeReader    = (*file)(nil)
	_ fs.NodeWriter    = (*file)(nil)
	_ fs.NodeFsyncer   = (*file)(nil)
	_ fs.NodeAllocater = (*file)(nil)
)

func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = syscall.S_IFREG|0o600, uint64(f.rack.sizes[f.disk])
	return 0
}

// Setattr takes times, and nothing else, without keeping them.
func (f *file) Setattr(ctx context.Context, h fs.FileHandle, _ *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return f.Getattr(ctx, h, out)
}

// Open has the kernel keep nothing of the file: what it writes must be seen at once, in its order.
func (f *file) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

func (f *file) Read(_ context.Context, _ fs.FileHandle, dst []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	dst = dst[:max(0, min(int64(len(dst)), f.rack.sizes[f.disk]-at))]
	errno := f.rack.read(f.disk, dst, at)
	return fuse.ReadResultData(dst), errno
}

func (f *file) Write(_ context.Context, _ fs.FileHandle, data []byte, at int64) (uint32, syscall.Errno) {
	if errno := f.rack.write(f.disk, data, at); errno != 0 {
		return 0, errno
	}
	return uint32(len(data)), 0
}

// Fsync is what the loop driver makes of a flush.
func (f *file) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	return f.rack.flush(f.disk)
}

// Allocate refuses what would be a discard: every change of a disk is a write.
func (f *file) Allocate(context.Context, fs.FileHandle, uint64, uint64, uint32) syscall.Errno {
	return syscall.EOPNOTSUPP
}

// fileName is a disk's name in the folder that is served.
func fileName(rack, disk int) string { return fmt.Sprintf("rack%d.disk%d", rack, disk) }

// folder is what is mounted: the disks of all racks.
type folder struct{ fs.Inode }

func (f *folder) add(number int, r *rack) {
	for i := range r.sizes {
		node := f.NewPersistentInode(context.Background(), &file{rack: r, disk: i}, fs.StableAttr{Mode: syscall.S_IFREG})
		f.AddChild(fileName(number, i), node, true)
	}
}

func mount(dir string) (*folder, *fuse.Server, error) {
	root := new(folder)
	server, err := fs.Mount(dir, root, &fs.Options{MountOptions: fuse.MountOptions{
		DirectMountStrict: true, FsName: "crashdisk", Name: "crashdisk", MaxWrite: 512 << 10, // with its head a request fits into a pipe
		DisableXAttrs: true,
	}})
	if err != nil {
		return nil, nil, fmt.Errorf("mount disks: %w", err)
	}
	return root, server, nil
}
