// SPDX-License-Identifier: Apache-2.0

package api

// The codes of Error that the agent uses. They are CNI error codes (CNI SPEC, "Error").
const (
	CodeIncompatible     uint = 1   // plugin and agent are of versions that do not know each other's calls
	CodeUnknownContainer uint = 3   // the agent does not hold that attachment
	CodeInvalid          uint = 7   // the request or the network configuration is wrong
	CodeTryAgain         uint = 11  // what was asked for is not possible now
	CodeInternal         uint = 999 // a fault of ours
)
