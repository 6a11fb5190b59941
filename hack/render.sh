#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Renders deploy/sluice.yaml from deploy/overlays/plain; with -check, fails if it is not fresh, or if the overlays and the
# Helm chart do not agree. kustomize and Helm are libraries of the module hack/render, so nothing has to be installed but Go.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/hack/lib.sh"
need_go
cd "$root/hack/render"
case ${1:-} in
'') "$GO" run . ;;
-check) "$GO" test -count=1 ./... ;;
*) die "unknown argument \"$1\": use $0 [-check]" ;;
esac
