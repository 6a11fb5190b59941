// SPDX-License-Identifier: Apache-2.0

package kube

// Events tell the users of objects what happens to them. An object is named as in lb.Issue.
type Events interface {
	Warn(object, reason, message string)
	Tell(object, reason, message string)
}

// NoEvents is for those who have nobody to tell.
type NoEvents struct{}

// Warn is Events'.
func (NoEvents) Warn(_, _, _ string) {}

// Tell is Events'.
func (NoEvents) Tell(_, _, _ string) {}
