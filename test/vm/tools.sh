#!/usr/bin/env bash
# What the virtual machine needs beside what tools.sh installs for all suites: QEMU, and what makes its disks. Installs what
# is missing on Debian and its like; elsewhere it says what that is.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
PATH=$PATH:/usr/sbin:/sbin
need qemu-system-x86_64 qemu-system-x86
need qemu-img qemu-utils
need mmdebstrap mmdebstrap
need mke2fs e2fsprogs
need cpio cpio
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "the virtual machine needs these packages: ${missing[*]}" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
