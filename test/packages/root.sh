#!/usr/bin/env bash
# root.sh FOLDER: makes the root of a Debian with systemd, users' own managers and rpm, for containers to boot. Once: it
# takes half a minute. Installs what booting it needs on this machine.
set -euo pipefail
root=$1

missing=()
command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
command -v systemd-nspawn >/dev/null || missing+=(systemd-container)
command -v rpm >/dev/null || missing+=(rpm)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
[ -e "$root.ready" ] && exit 0
rm -rf "$root"
mkdir -p "$(dirname "$root")"
mmdebstrap --quiet --variant=minbase --aptopt='Apt::Install-Recommends "false"' \
  --include=systemd-sysv,dbus,dbus-user-session,libpam-systemd,login,passwd,procps,sudo,rpm,man-db bookworm "$root"
touch "$root.ready"
