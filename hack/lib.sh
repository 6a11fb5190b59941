# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# What the scripts share: finding Go, and getting the programs that they need without changing what runs on the machine.
# POSIX sh; the caller sets root to the top of the tree. Nothing here starts, replaces or removes a service: programs whose
# packages bring daemons are unpacked into the cache, outside of the tree and of the system.

# Under sudo the home may still be the user's; root's files do not belong there.
if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ]; then
	HOME=$(getent passwd 0 | cut -d: -f6)
	export HOME
	unset XDG_CACHE_HOME
fi
cache=${SLUICE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sluice}
cni_plugins=$cache/cni

say() { printf '%s\n' "$*"; }

die() {
	printf '%s\n' "$*" >&2
	exit 1
}

need_root() {
	[ "$(id -u)" = 0 ] || die "this makes network namespaces, so it must run as root: sudo $0${*:+ $*}"
}

# Paths at which a Go may be, one a line. sudo resets PATH, so the invoking user's is asked for too.
go_candidates() {
	[ -z "${GO:-}" ] || command -v "$GO" || :
	command -v go || :
	if [ -n "${SUDO_USER:-}" ]; then
		su - "$SUDO_USER" -c 'command -v go' 2>/dev/null </dev/null | grep '^/' || :
		user_home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
		ls -d "$user_home"/go/bin/go "$user_home"/.local/go/bin/go "$user_home"/sdk/go*/bin/go 2>/dev/null || :
	fi
	ls -d /usr/local/go/bin/go /usr/lib/go-*/bin/go /snap/bin/go 2>/dev/null || :
}

# at_least A B: version A is B or later.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# Puts a Go that can build this module first on PATH. A Go from 1.21 on fetches the toolchain that go.mod names by itself.
need_go() {
	want=$(sed -n 's/^go //p' "$root/go.mod")
	seen=
	for go in $(go_candidates); do
		have=$(cd / && GOTOOLCHAIN=local "$go" env GOVERSION 2>/dev/null) || continue
		have=${have#go}
		seen="$seen
  found Go $have at $go"
		at_least "$have" 1.21 || continue
		at_least "$have" "$want" || (cd "$root" && "$go" version >/dev/null 2>&1) || continue
		PATH=$(dirname "$go"):$PATH
		GO=$go
		export PATH GO
		return 0
	done
	die "Sluice needs Go $want or later.${seen:-
  found none in PATH, /usr/local/go or the home of ${SUDO_USER:-$(id -un)}}
Install one and run this again, for example:
  curl -fsSL https://go.dev/dl/go$want.linux-$(dpkg --print-architecture 2>/dev/null || echo amd64).tar.gz | tar -C /usr/local -xz"
}

# Package lists are fetched once per run, and only when something is missing.
apt_update() {
	[ -z "${apt_updated:-}" ] || return 0
	say "fetching package lists"
	apt-get update -qq >/dev/null || die "apt-get update failed: check the machine's package sources"
	apt_updated=yes
}

# need_packages FILE-OR-COMMAND:PACKAGE...: installs the packages whose file or command is not there. None of those that the
# scripts name brings a service.
need_packages() {
	missing=
	for pair in "$@"; do
		case ${pair%%:*} in
		/*) [ -e "${pair%%:*}" ] || missing="$missing ${pair#*:}" ;;
		*) command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}" ;;
		esac
	done
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null || die "please install:$missing"
	[ "$(id -u)" = 0 ] || die "please install, or run this as root:$missing"
	apt_update
	say "installing$missing"
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends --no-remove \
		-o DPkg::Lock::Timeout=120 $missing >/dev/null || die "apt-get install$missing failed"
}

# unpack PROGRAM [PACKAGE...]: puts Debian packages, by default the one with the program's name, into the cache with those of
# their libraries that the machine lacks, and a wrapper into $cache/tools. Nothing is installed. Fails if the package sources
# do not have them.
unpack() {
	mkdir -p "$cache/tools"
	works "$1" && return 0
	command -v apt-get >/dev/null || {
		say "no apt-get here to fetch $1 with"
		return 1
	}
	apt_update
	say "unpacking $1 into $cache"
	rm -rf "$cache/unpacked/$1"
	mkdir -p "$cache/unpacked/$1/debs"
	(
		name=$1
		[ $# = 1 ] || shift
		cd "$cache/unpacked/$name/debs"
		fetch "$@" || exit 1
		program=$(find .. -path "*bin/$name" -type f | head -n 1)
		if ldd "$program" | grep -q 'not found'; then
			# shellcheck disable=SC2046 # a list of words
			fetch $(missing_libraries "$1") || exit 1
		fi
		rm -f ./*.deb
		write_wrapper "$name" "$(realpath "$program")"
	) && works "$1"
}

# --version comes first: to etcd, -v is no question, and it would serve.
works() { "$cache/tools/$1" --version >/dev/null 2>&1 || "$cache/tools/$1" -v >/dev/null 2>&1; }

fetch() {
	[ $# -gt 0 ] || return 0
	apt-get download -qq -o APT::Sandbox::User=root "$@" >/dev/null || return 1
	for deb in ./*.deb; do dpkg -x "$deb" ..; done
}

missing_libraries() {
	apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
		"$1" | grep '^lib' | grep -v : | sort -u | while read -r lib; do
		dpkg-query -W -f '${db:Status-Status}' "$lib" 2>/dev/null | grep -q '^installed' || say "$lib"
	done
}

write_wrapper() {
	libraries=$(find "$cache/unpacked/$1" -name '*.so*' -exec dirname {} \; | grep -e '-linux-gnu$' | sort -u | paste -sd: -)
	{
		say '#!/bin/sh'
		[ -z "$libraries" ] || say "export LD_LIBRARY_PATH='$libraries'"
		say "exec '$2' \"\$@\""
	} >"$cache/tools/$1"
	chmod +x "$cache/tools/$1"
}

# The upstream plugins of the chain, from their module at the version that go.mod pins.
need_cni_plugins() {
	mkdir -p "$cni_plugins"
	(cd "$root" && CGO_ENABLED=0 "$GO" build -trimpath -o "$cni_plugins/" \
		github.com/containernetworking/plugins/plugins/main/macvlan \
		github.com/containernetworking/plugins/plugins/ipam/host-local)
}

# Under sudo, what was built in the checkout goes back to the user who owns it.
give_back() {
	[ -z "${SUDO_UID:-}" ] || [ ! -d "$root/bin" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$root/bin"
}
