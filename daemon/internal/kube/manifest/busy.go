// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// isBeingWritten tells whether somebody has the file open for writing. A read lease can be had on a file only while
// nobody has (fcntl(2), F_SETLEASE); it is given back at once, and an open(2) that comes between waits for
// microseconds. Where leases are not to be had, the answer is no: a half-written file then is one that does not parse.
func isBeingWritten(f *os.File) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	}
	return errors.Is(err, unix.EAGAIN)
}
