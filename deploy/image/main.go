// SPDX-License-Identifier: Apache-2.0

// Image writes an OCI archive: an image for each platform, of one layer, from binaries that are built already. It needs no
// daemon, and the same binaries give the same octets. It must not build anything; build.sh does.
//
//	go run ./deploy/image -o sluice.tar -name localhost/sluice-lb/sluice:dev amd64=DIR arm64=DIR
//
// Every DIR holds sluiced, sluice and sluicectl for that architecture of Linux.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("o", "", "file to write")
	name := flags.String("name", "", "name and tag of the image, such as localhost/sluice-lb/sluice:dev")
	version := flags.String("version", "unknown", "what the image is built from, for its label")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" || flags.NArg() == 0 {
		return fmt.Errorf("want -o FILE, -name NAME:TAG, and ARCH=DIR for each architecture")
	}
	o := options{Version: *version}
	var err error
	if o.Name, o.Tag, err = parseName(*name); err != nil {
		return err
	}
	if o.Created, err = created(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	for _, arg := range flags.Args() {
		arch, dir, ok := strings.Cut(arg, "=")
		if !ok || arch == "" || dir == "" {
			return fmt.Errorf("%q: want ARCH=DIR", arg)
		}
		o.Platforms = append(o.Platforms, platform{arch, dir})
	}
	return write(*out, o)
}

// nameForm is a registry with an optional port, a path, and a tag (OCI distribution specification, "Pulling manifests").
var nameForm = regexp.MustCompile(`^([a-z0-9.-]+(?::[0-9]+)?(?:/[a-z0-9._-]+)+):([A-Za-z0-9_][A-Za-z0-9._-]{0,127})$`)

func parseName(s string) (name, tag string, err error) {
	parts := nameForm.FindStringSubmatch(s)
	if parts == nil {
		return "", "", fmt.Errorf("-name %q: want REGISTRY/NAME:TAG in lower case", s)
	}
	return parts[1], parts[2], nil
}

// created reads the time that everything in the image gets, in seconds since 1970 (reproducible-builds.org,
// SOURCE_DATE_EPOCH).
func created(epoch string) (time.Time, error) {
	if epoch == "" {
		epoch = "0"
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds since 1970", epoch)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
