# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
# What the lane vm boots: distributions' kernels, unpacked into $cache/vm, and qemu. Needs hack/lib.sh. The packages come
# by an apt with sources and lists of its own: it has the machine's proxies and settings, and leaves the machine's sources
# alone. A kernel stays in the cache until its directory is removed.

kernels=$cache/vm
debian_mirror=${SLUICE_DEBIAN_MIRROR:-http://deb.debian.org/debian}
ubuntu_mirror=${SLUICE_UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu}
debian_keys=/usr/share/keyrings/debian-archive-keyring.gpg

# need_vm: gets qemu and the kernels, and says what is not to be had. The kernels are then in $vm_kernels.
need_vm() {
	need_packages ldd:libc-bin xz:xz-utils
	command -v qemu-system-x86_64 >/dev/null ||
		unpack qemu-system-x86_64 qemu-system-x86 qemu-system-common qemu-system-data seabios ||
		say "qemu-system-x86_64 is neither here nor in the package sources"
	# The floor that the programs are written for. The release's own kernel never changes, so its octets are known.
	need_kernel 5.15 "deb [arch=amd64 target=Packages trusted=yes] $ubuntu_mirror jammy main" ubuntu_5_15
	# Debian 12: no tcx.
	need_kernel 6.1 "deb [arch=amd64 target=Packages signed-by=$debian_keys] $debian_mirror bookworm main" debian_newest
	# Debian 12 with backports: tcx.
	need_kernel 6.12 "deb [arch=amd64 target=Packages signed-by=$debian_keys] $debian_mirror bookworm-backports main" \
		debian_newest
	vm_kernels="$kernels/5.15 $kernels/6.1 $kernels/6.12"
}

# need_kernel NAME SOURCE DOWNLOAD: $kernels/NAME gets vmlinuz and modules/, from the packages that DOWNLOAD leaves in
# its current directory. A kernel that is not to be had is said, and left out.
need_kernel() {
	[ ! -e "$kernels/$1/vmlinuz" ] || return 0
	command -v apt-get >/dev/null || {
		say "kernel $1: no apt-get here to fetch it with"
		return 0
	}
	case $2 in *"$debian_keys"*) need_packages "$debian_keys:debian-archive-keyring" ;; esac
	say "fetching kernel $1 into $kernels"
	new=$kernels/$1.new
	rm -rf "$new"
	mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/debs" "$new/root"
	say "$2" >"$new/apt/sources.list"
	private_apt_conf "$new/apt" >"$new/apt/apt.conf"
	(
		cd "$new/debs"
		apt-get -c "$new/apt/apt.conf" update -qq >/dev/null 2>"$new/errors" && "$3" "$new/apt/apt.conf" || exit 1
		for deb in ./*.deb; do dpkg -x "$deb" "$new/root" || exit 1; done
		mv "$new"/root/boot/vmlinuz-* "$new/vmlinuz" && mv "$new"/root/lib/modules/* "$new/modules" || exit 1
		rm -rf "$new/apt" "$new/debs" "$new/root" "$new/errors" "${kernels:?}/$1"
		mv "$new" "$kernels/$1"
	) || {
		say "kernel $1 is not to be had from: $2"
		cat "$new/errors" 2>/dev/null || :
		rm -rf "$new"
	}
}

# private_apt_conf DIR: read after the machine's configuration. Nothing that the machine does after an update is done.
private_apt_conf() {
	cat <<-END
		#clear APT::Update;
		APT::Architecture "amd64";
		APT::Architectures { "amd64"; };
		APT::Sandbox::User "root";
		Dir::Etc::sourcelist "$1/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::State "$1";
		Dir::State::lists "$1/lists";
		Dir::State::status "/dev/null";
		Dir::Cache "$1";
		Dir::Cache::archives "$1/archives";
		Acquire::Languages "none";
	END
}

# The image that the metapackage points to: its name changes with each point release.
debian_newest() {
	image=$(apt-cache -c "$1" depends linux-image-cloud-amd64 |
		sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	[ -n "$image" ] && apt-get -c "$1" download -qq "$image" >/dev/null
}

# Debian has no package with Ubuntu's keys, so the octets themselves are checked.
ubuntu_5_15() {
	apt-get -c "$1" download -qq linux-image-unsigned-5.15.0-25-generic linux-modules-5.15.0-25-generic \
		>/dev/null 2>&1 || return 1
	sha256sum --check --quiet <<-END
		ac69df20790c48217eb1386ef81fd10d3f20a4ede4dab81cc107c65d29549fa0  $(echo linux-image-unsigned-*.deb)
		d0ba4087d9e1d497925b3481d3531fba6c2a852855f8019d73b0b1385aa4da1f  $(echo linux-modules-*.deb)
	END
}
