// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mustPrograms makes a directory with programs for one architecture.
func mustPrograms(t *testing.T, arch string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range programs {
		content := strings.Repeat(name+" for "+arch+"\n", 1000)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// mustBuild writes an image of both architectures.
func mustBuild(t *testing.T, dirs map[string]string) []byte {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	out := filepath.Join(t.TempDir(), "image.tar")
	args := []string{"-o", out, "-name", "localhost/sluice-lb/sluice:dev", "-version", "v1"}
	for _, arch := range []string{"amd64", "arm64"} {
		args = append(args, arch+"="+dirs[arch])
	}
	if err := run(args, t.Output()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestTheSameProgramsGiveTheSameOctets(t *testing.T) {
	one := mustBuild(t, map[string]string{"amd64": mustPrograms(t, "amd64"), "arm64": mustPrograms(t, "arm64")})
	// Other directories, made later.
	two := mustBuild(t, map[string]string{"amd64": mustPrograms(t, "amd64"), "arm64": mustPrograms(t, "arm64")})
	if !bytes.Equal(one, two) {
		t.Errorf("two builds differ: %s and %s", digest(one), digest(two))
	}
	other := mustBuild(t, map[string]string{"amd64": mustPrograms(t, "s390x"), "arm64": mustPrograms(t, "arm64")})
	if bytes.Equal(one, other) {
		t.Error("other programs give the same image")
	}
}

// entries reads a tar archive: contents by name, and a line for each entry.
func entries(t *testing.T, r io.Reader) (contents map[string][]byte, lines []string) {
	t.Helper()
	contents = map[string][]byte{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return contents, lines
		}
		if err != nil {
			t.Fatal(err)
		}
		if contents[h.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
		link := ""
		if h.Linkname != "" {
			link = " -> " + h.Linkname
		}
		lines = append(lines, fmt.Sprintf("%v %d:%d %d %s%s", h.FileInfo().Mode(), h.Uid, h.Gid, h.ModTime.Unix(), h.Name, link))
	}
}

// follow gives the blob of a descriptor, whose digest and size must be right.
func follow(t *testing.T, files map[string][]byte, d descriptor, mediaType string) []byte {
	t.Helper()
	content, ok := files["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
	if !ok {
		t.Fatalf("%s %s is missing", mediaType, d.Digest)
	}
	if d.MediaType != mediaType || d.Size != len(content) || digest(content) != d.Digest {
		t.Errorf("descriptor %+v of a %s with %d octets and digest %s", d, mediaType, len(content), digest(content))
	}
	return content
}

func read[T any](t *testing.T, content []byte) T {
	t.Helper()
	var out T
	decoder := json.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&out); err != nil {
		t.Fatalf("%v in %s", err, content)
	}
	return out
}

func TestTheLayoutLeadsFromIndexToFiles(t *testing.T) {
	const archs = "amd64 arm64"
	dirs := map[string]string{}
	for arch := range strings.FieldsSeq(archs) {
		dirs[arch] = mustPrograms(t, arch)
	}
	files, _ := entries(t, bytes.NewReader(mustBuild(t, dirs)))
	if got := string(files["oci-layout"]); got != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout is %q", got)
	}
	top := read[index](t, files["index.json"])
	if len(top.Manifests) != 1 || top.SchemaVersion != 2 {
		t.Fatalf("index.json is %s", files["index.json"])
	}
	names := map[string]string{
		"org.opencontainers.image.ref.name": "dev", "io.containerd.image.name": "localhost/sluice-lb/sluice:dev",
	}
	if diff := cmp.Diff(names, top.Manifests[0].Annotations); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	reached := 4 // oci-layout, index.json, and the directories blobs and sha256
	images := read[index](t, follow(t, files, top.Manifests[0], typeIndex))
	reached++
	var seen []string
	for _, image := range images.Manifests {
		arch := image.Platform.Architecture
		seen = append(seen, arch)
		m := read[manifest](t, follow(t, files, image, typeManifest))
		config := read[imageConfig](t, follow(t, files, m.Config, typeConfig))
		if config.osArch != *image.Platform || config.OS != "linux" || config.Config.User != user ||
			!cmp.Equal(config.Config.Entrypoint, []string{"/usr/local/bin/sluiced"}) || config.Created.Unix() != 1700000000 {
			t.Errorf("config of %s: %+v", arch, config)
		}
		if len(m.Layers) != 1 || len(config.RootFS.DiffIDs) != 1 {
			t.Fatalf("%d layers, %d diff_ids", len(m.Layers), len(config.RootFS.DiffIDs))
		}
		zip, err := gzip.NewReader(bytes.NewReader(follow(t, files, m.Layers[0], typeLayer)))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(zip)
		if err != nil || digest(plain) != config.RootFS.DiffIDs[0] {
			t.Errorf("layer of %s: %v, digest %s, diff_id %s", arch, err, digest(plain), config.RootFS.DiffIDs[0])
		}
		checkFiles(t, plain, arch)
		reached += 3
	}
	if got := strings.Join(seen, " "); got != archs {
		t.Errorf("architectures: %s", got)
	}
	if len(files) != reached {
		t.Errorf("%d entries in the archive, %d of which are referred to", len(files), reached)
	}
}

// checkFiles checks the file system of an image.
func checkFiles(t *testing.T, plain []byte, arch string) {
	t.Helper()
	files, lines := entries(t, bytes.NewReader(plain))
	want := []string{
		"drwxr-xr-x 0:0 1700000000 run/",
		"drwxr-xr-x 0:0 1700000000 usr/",
		"drwxr-xr-x 0:0 1700000000 usr/local/",
		"drwxr-xr-x 0:0 1700000000 usr/local/bin/",
		"drwxr-xr-x 0:0 1700000000 var/",
		"Lrwxrwxrwx 0:0 1700000000 var/run -> ../run",
		"-rwxr-xr-x 0:0 1700000000 usr/local/bin/sluice",
		"-rwxr-xr-x 0:0 1700000000 usr/local/bin/sluicectl",
		"-rwxr-xr-x 0:0 1700000000 usr/local/bin/sluiced",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("files of %s (-want +got):\n%s", arch, diff)
	}
	if got := string(files["usr/local/bin/sluiced"]); !strings.HasPrefix(got, "sluiced for "+arch+"\n") {
		t.Errorf("sluiced of %s is %.20q", arch, got)
	}
}

func TestAnImageThatCannotBeBuiltIsRefused(t *testing.T) {
	dir, out := mustPrograms(t, "amd64"), filepath.Join(t.TempDir(), "image.tar")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-name", "localhost/a:b", "amd64=" + dir}, "want -o FILE"},
		{[]string{"-o", out, "-name", "localhost/a:b"}, "ARCH=DIR"},
		{[]string{"-o", out, "-name", "localhost/a:b", "amd64"}, `"amd64": want ARCH=DIR`},
		{[]string{"-o", out, "-name", "localhost/A:b", "amd64=" + dir}, `-name "localhost/A:b"`},
		{[]string{"-o", out, "-name", "localhost/a", "amd64=" + dir}, `-name "localhost/a"`},
		{[]string{"-o", out, "-name", "localhost/a:b", "amd64=" + t.TempDir()}, "sluiced: no such file"},
	} {
		if err := run(tt.args, io.Discard); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.args, err, tt.want)
		}
		if _, err := os.Stat(out); !os.IsNotExist(err) {
			t.Errorf("%q: leaves a file: %v", tt.args, err)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if err := run([]string{"-o", out, "-name", "localhost/a:b", "amd64=" + dir}, io.Discard); err == nil {
		t.Error("SOURCE_DATE_EPOCH=yesterday is taken")
	}
}
