#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the tests, lane by lane: ./test_linux.sh [unit|bpf|netns|vm|all|matrix|kube]...
# Default: all matrix kube vm. As root, or by sudo.
#
#   unit   what needs nothing but Go; tests in it that need more say so and are listed at the end
#   bpf    the BPF programs and what loads them: needs root
#   netns  real binaries in network namespaces: needs root
#   all    the three above: what the kernel of this machine can run
#   vm     the programs, and a Service, on the kernels of distributions, in emulated machines
#   matrix each mode of interface with each kind of client and packet, as a table: macvlan on this machine's kernel, and
#          ipvlan on the newest of those, unless the lane vm does that anyway
#   kube   what needs a real API server: etcd, kube-apiserver and kube-controller-manager, built the first time, which takes
#          many minutes; needs root
#
# What is missing on the machine is installed first, or unpacked into the cache. RUN=regexp narrows (go test -run), and
# leaves the lane matrix and its table out unless it names TestMatrix.
# SLUICE_TEST_REQUIRE=root,bpf,testrun,tcx makes a skip for one of these a failure; CI sets it. UPDATE=1 makes the lane
# vm write what the kernels' verifiers say into bpf/testdata/verifier.txt.
set -eu
root=$(cd "$(dirname "$0")" && pwd)
. "$root/hack/lib.sh"
. "$root/hack/vm.sh"
cd "$root"

lanes=
[ $# != 0 ] || set -- all matrix kube vm
for word in "$@"; do
	case $word in
	all) lanes="$lanes unit bpf netns" ;;
	unit | bpf | netns | vm | kube) lanes="$lanes $word" ;;
	matrix) case ${RUN:-TestMatrix} in *TestMatrix*) lanes="$lanes matrix" ;; esac ;;
	*) die "unknown lane \"$word\": use unit, bpf, netns, vm, all, matrix or kube" ;;
	esac
done
[ -n "$lanes" ] || die "RUN=$RUN leaves nothing to run: the lane matrix has TestMatrix alone"
case "$lanes " in
*' vm '*) ;;
*' matrix '*) lanes="$lanes matrix-vm" ;;
esac
[ "$lanes" = " unit" ] || need_root "$@"

need_packages gcc:gcc /usr/include/stdlib.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates # for -race
need_go
case $lanes in
*netns* | *matrix* | *kube*)
	need_packages ip:iproute2 tcpdump:tcpdump ethtool:ethtool
	unpack iperf3 || say "iperf3 is not to be had here: the tests that need it will say so"
	;;
esac
case $lanes in
*vm*)
	need_packages ip:iproute2 tcpdump:tcpdump ethtool:ethtool
	need_vm
	;;
esac
case $lanes in
*kube*) "$root/hack/kube.sh" >/dev/null ;; # before the tests, which would build it within their time limit
esac
PATH=$cache/tools:$PATH
export PATH

# packages LANE: the one place that says which package is tested where. A new package is in unit until it is named here.
packages() {
	case $1 in
	unit) "$GO" list ./... | grep -vE "^$("$GO" list -m)/($in_bpf|$in_netns)(/|\$)" ;;
	bpf) "$GO" list ./... | grep -E "^$("$GO" list -m)/($in_bpf)(/|\$)" ;;
	netns) "$GO" list ./... | grep -E "^$("$GO" list -m)/($in_netns)(/|\$)" | grep -vE "/($in_kube)\$" ;;
	kube) "$GO" list ./... | grep -E "^$("$GO" list -m)/($in_kube)\$" ;;
	esac
}
in_bpf='bpf|daemon/internal/dataplane'
in_netns='plugins|daemon/internal/attach|daemon/internal/server|integration'
in_kube='integration/kubeapi|integration/kube' # and so not in netns

work=$(mktemp -d)
trap 'rm -rf "$work"; give_back' EXIT
"$GO" build -o "$work/" ./integration/report ./integration/vm

status=0
for lane in $lanes; do
	say "== $lane"
	# shellcheck disable=SC2046,SC2086 # lists of words
	case $lane in
	vm) set -- "$work/vm" ${RUN:+-run "$RUN"} ${UPDATE:+-update} $vm_kernels ;;
	matrix) set -- "$GO" test -json -race -timeout 20m -run "${RUN:-^TestMatrix\$}" ./integration ;;
	matrix-vm) set -- "$work/vm" -run "${RUN:-^TestMatrix\$/^ipvlan}" ${vm_kernels##* } ;;
	unit) set -- "$GO" test -json -race -timeout 20m ${RUN:+-run "$RUN"} $(packages unit) ;;
	# Lanes with namespaces and timing run one package at a time.
	*) set -- "$GO" test -json -race -timeout 20m -p=1 -skip '^TestMatrix$' ${RUN:+-run "$RUN"} $(packages "$lane") ;;
	esac
	"$work/report" -lane "$lane" -append "$work/results" ${RUN:+-narrowed} "$@" || status=1
	[ "$lane" != vm ] || cat bpf/testdata/verifier.txt
done
case $lanes in
*matrix*)
	say "== matrix"
	"$work/report" -matrix "$work/results" || status=1
	;;
esac
say "== result"
"$work/report" -total "$work/results" || status=1
exit $status
