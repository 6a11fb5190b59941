// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the datapath's C and what bpf2go makes of it: the objects, the loaders and the types that C and Go
// share. It must not decide anything; only daemon/internal/dataplane uses it.
package bpf

// The include paths cover the distributions that split the kernel's headers by architecture; the object does not depend on it.
//go:generate go tool bpf2go -cc clang-19 -tags linux -target bpfel -type address -type address_key -type address_kind -type master_flag -type address_info -type owner -type station_key -type station_kind -type station_flag -type station -type service_key -type service -type service_flag -type allowed_key -type affinity_key -type affinity -type backend_flag -type backend -type local_backend_key -type flow_key -type flow_flag -type flow -type selection_flag -type selection -type traffic -type bucket -type answer -type direction -type reason -output-stem lb Lb lb.c -- -I./include -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu -O2 -g -Wall -Werror -mcpu=v3
//go:generate go tool bpf2go -cc clang-19 -tags linux -target bpfel -go-package bpf_test -output-suffix _test -no-global-types -output-stem bench Bench bench.c -- -I./include -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu -O2 -g -Wall -Werror -mcpu=v3
