// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Where programs are in the image, which are all that is in it.
const binDir = "usr/local/bin"

var programs = []string{"sluice", "sluicectl", "sluiced"} // sorted

// layer is the file system: gzip'ed, and the digest of what is inside.
type layer struct {
	content []byte
	diffID  string
}

// newLayer packs the programs of a directory. Owners, times and order are fixed.
func newLayer(dir string, created time.Time) (layer, error) {
	var plain bytes.Buffer
	archive := tar.NewWriter(&plain)
	add := func(h tar.Header, content []byte) error {
		h.ModTime, h.Size, h.Format = created, int64(len(content)), tar.FormatUSTAR
		if err := archive.WriteHeader(&h); err != nil {
			return fmt.Errorf("pack %s: %w", h.Name, err)
		}
		_, err := archive.Write(content)
		return err
	}
	var errs []error
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "run/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "usr/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "usr/local/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: binDir + "/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "var/", Mode: 0o755},
		// Runtimes name pods' network namespaces /var/run/netns/…, and the agent is given /run/netns.
		{Typeflag: tar.TypeSymlink, Name: "var/run", Linkname: "../run", Mode: 0o777},
	} {
		errs = append(errs, add(h, nil))
	}
	for _, name := range programs {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = add(tar.Header{Typeflag: tar.TypeReg, Name: binDir + "/" + name, Mode: 0o755}, content)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, archive.Close())...); err != nil {
		return layer{}, fmt.Errorf("pack the programs of %s: %w", dir, err)
	}
	l := layer{diffID: digest(plain.Bytes())}
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return layer{}, err
	}
	if _, err := io.Copy(zip, &plain); err != nil {
		return layer{}, err
	}
	if err := zip.Close(); err != nil {
		return layer{}, err
	}
	l.content = packed.Bytes()
	return l, nil
}
