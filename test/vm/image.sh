#!/usr/bin/env bash
# Builds a small Debian 12 for the virtual machine: image.sh DIR makes DIR/{root.img,vmlinuz,initrd}. Nothing of stoker is in it.
set -euo pipefail
dir=$(realpath -m "$1")
root=$dir/root
rm -rf "$dir" && mkdir -p "$dir"

# The date is fixed so that packages are unpacked alike.
export SOURCE_DATE_EPOCH=1700000000
packages=(
  systemd-sysv udev dbus kmod linux-image-cloud-amd64 initramfs-tools zstd e2fsprogs
  qemu-guest-agent busybox-static iproute2 procps sudo man-db     # to command it, and what a user has
  nfs-kernel-server nfs-common samba smbclient cifs-utils         # shares, served and mounted
)
mmdebstrap --quiet --variant=minbase --mode=root --include="$(IFS=,; echo "${packages[*]}")" \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-include=/usr/share/man/man[1-8]/stoker*' \
  --aptopt='Apt::Install-Recommends "false"' \
  bookworm "$root"

echo stoker-vm > "$root/etc/hostname"
echo 127.0.0.1 localhost stoker-vm > "$root/etc/hosts"
echo '/dev/vda / ext4 rw,relatime 0 1' > "$root/etc/fstab"

# Servers start when a test wants them, and what an idle Debian does by the hour would only cost boot time here.
chroot "$root" systemctl -q disable nfs-server nfs-client.target rpcbind.service rpcbind.socket nfs-blkmap smbd nmbd e2scrub_reap
chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer man-db.timer e2scrub_all.timer fstrim.timer \
  e2scrub_reap.service systemd-pstore.service getty@tty1.service samba-ad-dc.service
# The log goes to the serial console too, where it outlives the machine.
mkdir -p "$root/var/log/journal" "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nForwardToConsole=yes\nTTYPath=/dev/ttyS0\nMaxLevelConsole=debug\n' > "$root/etc/systemd/journald.conf.d/console.conf"
chroot "$root" systemctl -q mask serial-getty@ttyS0.service
# The agent would tell of every call.
mkdir -p "$root/etc/systemd/system/qemu-guest-agent.service.d"
printf '[Service]\nLogLevelMax=notice\n' > "$root/etc/systemd/system/qemu-guest-agent.service.d/quiet.conf"
# The disks of state and shared folders, as they are made for each machine.
printf '/dev/disk/by-id/virtio-%s %s ext4 rw,relatime 0 2\n' state /var/lib/stoker shared /srv/stoker >> "$root/etc/fstab"
mkdir -p "$root/var/lib/stoker" "$root/srv/stoker"
echo '/dev/disk/by-id/virtio-media /media ext4 ro 0 0' >> "$root/etc/fstab"

# Debian's initrd looks for everything that a machine might boot from. This one knows.
kernel=$(ls "$root/lib/modules")
early=$dir/early
mkdir -p "$early"/{bin,dev,root,modules}
cp "$root/bin/busybox" "$early/bin/busybox"
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
  cp "$(find "$root/lib/modules/$kernel" -name "$module.ko")" "$early/modules/"
done
cat > "$early/init" <<'INIT'
#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
  busybox insmod /modules/$module.ko
done
until [ -b /dev/vda ]; do busybox usleep 10000; done
busybox mount -t ext4 /dev/vda /root
busybox mount --move /dev /root/dev
exec busybox switch_root /root /sbin/init
INIT
chmod 755 "$early/init"
(cd "$early" && find . | cpio --quiet -o -H newc > "$dir/initrd")
cp "$root/boot/vmlinuz-$kernel" "$dir/vmlinuz"

rm -f "$root"/boot/* "$root"/var/cache/apt/archives/*.deb
truncate -s 1G "$dir/root.img"
mke2fs -q -F -t ext4 -d "$root" "$dir/root.img"
rm -rf "$root" "$early"
