#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Shows Sluice at work: three nodes in namespaces of this machine, three nginx pods on a macvlan network, one VIP.
#
#   sudo ./integration/demo/run.sh           the tour, about half a minute after building; leaves nothing behind
#   sudo ./integration/demo/run.sh --keep    stays up afterwards and prints what to try, until Ctrl-C
#
# What is missing on the machine is installed first. nginx is not: it is unpacked into the cache, outside of this tree, so
# that nothing is started, replaced or removed here. The nodes share one host-local data directory, because host-local
# allocates per node: with one range on several nodes it would hand out an address twice.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/hack/lib.sh"
cd "$root"

case ${1:-} in
"" | --keep) ;;
*) die "usage: $0 [--keep]" ;;
esac
need_root "$@"
need_packages ip:iproute2 curl:curl /etc/ssl/certs/ca-certificates.crt:ca-certificates
need_go
unpack nginx || die "nginx is not to be had from this machine's package sources: on Ubuntu, enable \"main\""

say "building"
./build_linux.sh
need_cni_plugins
CGO_ENABLED=0 "$GO" build -o "$cache/tools/sluice-demo" ./integration/demo
give_back

exec "$cache/tools/sluice-demo" -bin "$root/bin" -cni "$cni_plugins" -tools "$cache/tools" -examples "$root/netconf-examples" "$@"
