#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the tests, lane by lane: ./test_linux.sh [unit|bpf|netns|all]...   (default: all; as root, or by sudo)
#
#   unit   what needs nothing but Go; tests in it that need more say so and are listed at the end
#   bpf    the BPF programs and what loads them: needs root
#   netns  real binaries in network namespaces: needs root
#
# What is missing on the machine is installed first, or unpacked into the cache. RUN=regexp narrows (go test -run).
# SLUICE_TEST_REQUIRE=root,bpf,tcx makes a skip for one of these a failure; CI sets it.
set -eu
root=$(cd "$(dirname "$0")" && pwd)
. "$root/hack/lib.sh"
cd "$root"

lanes=
for word in "${@:-all}"; do
	case $word in
	all) lanes="$lanes unit bpf netns" ;;
	unit | bpf | netns) lanes="$lanes $word" ;;
	*) die "unknown lane \"$word\": use unit, bpf, netns or all" ;;
	esac
done
[ "$lanes" = " unit" ] || need_root "$@"

need_packages gcc:gcc /usr/include/stdlib.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates # for -race
need_go
case $lanes in
*netns*)
	need_packages ip:iproute2 tcpdump:tcpdump ethtool:ethtool
	unpack iperf3 || say "iperf3 is not to be had here: the tests that need it will say so"
	PATH=$cache/tools:$PATH
	;;
esac
export PATH

# packages LANE: the one place that says which package is tested where. A new package is in unit until it is named here.
packages() {
	case $1 in
	unit) "$GO" list ./... | grep -vE "^$("$GO" list -m)/($in_bpf|$in_netns)(/|\$)" ;;
	bpf) "$GO" list ./... | grep -E "^$("$GO" list -m)/($in_bpf)(/|\$)" ;;
	netns) "$GO" list ./... | grep -E "^$("$GO" list -m)/($in_netns)(/|\$)" ;;
	esac
}
in_bpf='bpf|daemon/internal/dataplane'
in_netns='plugins|daemon/internal/attach|daemon/internal/server|integration'

work=$(mktemp -d)
trap 'rm -rf "$work"; give_back' EXIT
"$GO" build -o "$work/report" ./integration/report

status=0
for lane in $lanes; do
	say "== $lane"
	# Lanes with namespaces and timing run one package at a time.
	case $lane in unit) parallel= ;; *) parallel=-p=1 ;; esac
	# shellcheck disable=SC2046,SC2086 # lists of words
	"$work/report" -lane "$lane" -append "$work/results" \
		"$GO" test -json -race -timeout 20m $parallel ${RUN:+-run "$RUN"} $(packages "$lane") || status=1
done
say "== result"
"$work/report" -total "$work/results" || status=1
exit $status
