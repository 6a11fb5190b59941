#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints a directory with the programs of a real Kubernetes control plane: kube-apiserver, kube-controller-manager and
# kubectl, built from what integration/kubernetes/go.mod pins, and etcd, Debian's unless the machine has one. All are in the
# cache, outside of the tree; what is missing is made first, which takes 10 to 20 minutes of one CPU when nothing is in Go's
# cache. No service is installed or started.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/hack/lib.sh"
exec 3>&1 >&2 # what the functions say is progress; the answer alone goes to standard output
need_go

module=$root/integration/kubernetes
version=$(cd "$module" && "$GO" list -m -f '{{.Version}}' k8s.io/kubernetes)
programs=$cache/kubernetes-$version-$(cd "$module" && "$GO" env GOVERSION)

# build DIR: without these variables the programs would call themselves v0.0.0-master, which clients take for a version.
build() {
	minor=${version#v1.}
	component=k8s.io/component-base/version
	cd "$module" && CGO_ENABLED=0 GOOS=linux "$GO" build -trimpath -buildvcs=false -o "$1/" -ldflags "-s -w
		-X $component.gitVersion=$version -X $component.gitMajor=1 -X $component.gitMinor=${minor%%.*}
		-X k8s.io/client-go/pkg/version.gitVersion=$version" tool
}

# The link to etcd comes last: with it all is there. Who comes while another builds waits, and finds it done.
if [ ! -x "$programs/etcd" ]; then
	mkdir -p "$cache"
	exec 9>"$cache/kubernetes.lock"
	flock -n 9 || {
		say "waiting for another run to end that builds or unpacks into $cache"
		flock 9
	}
fi
if [ ! -d "$programs" ]; then
	say "building Kubernetes $version into $programs: this takes minutes, once"
	new=$(mktemp -d "$cache/kubernetes-new.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	build "$new"
	chmod 755 "$new"
	mv "$new" "$programs"
fi
if [ ! -x "$programs/etcd" ]; then
	etcd=$(command -v etcd || :)
	if [ -z "$etcd" ]; then
		unpack etcd etcd-server || die "etcd is neither here nor in the package sources: install etcd-server"
		etcd=$cache/tools/etcd
	fi
	ln -sfn "$etcd" "$programs/etcd"
fi
say "$programs" >&3
