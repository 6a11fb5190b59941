#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the image: deploy/image/build.sh [FILE]   (default: bin/sluice-image.tar)
#
# An OCI archive for linux/amd64 and linux/arm64, from scratch: nothing but the three programs is in it. It needs Go, and
# neither a container runtime nor root; the same commit gives the same octets. IMAGE names it (default: what deploy/ refers
# to), ARCHES are its architectures, GO is honoured.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
. "$root/hack/lib.sh"
need_go
out=$(realpath -m "${1:-$root/bin/sluice-image.tar}")
cd "$root"

VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export VERSION SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
set --
for arch in ${ARCHES:-amd64 arm64}; do
	GOARCH=$arch BIN=$work/$arch ./build_linux.sh >/dev/null
	set -- "$@" "$arch=$work/$arch"
done
mkdir -p "$(dirname "$out")"
"$GO" run ./deploy/image -o "$out" -name "${IMAGE:-localhost/sluice-lb/sluice:dev}" -version "$VERSION" "$@"
give_back
say "$out"
