// SPDX-License-Identifier: Apache-2.0

//go:build race

package integration

// raceFlag makes the daemons that the tests run look for data races when the tests do.
const raceFlag = "-race"
