#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds bin/sluice (the CNI plugin), bin/sluiced (agent, controller) and bin/sluicectl: static, stripped, and the same
# bytes for the same commit wherever it is checked out. GO, GOARCH, VERSION and BIN, the directory that is written to, are
# honoured; arguments go to go build.
set -e
cd "$(dirname "$0")"

export CGO_ENABLED=0 GOOS=linux
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}

bin=${BIN:-bin}
mkdir -p "$bin"
for target in sluice=plugins/meta/sluice sluiced=daemon sluicectl=cmd/sluicectl; do
	echo "  $bin/${target%%=*}"
	${GO:-go} build -o "$bin/${target%%=*}" -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" \
		"$@" "./${target#*=}"
done
