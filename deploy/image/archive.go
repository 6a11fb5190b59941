// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// Media types of the OCI image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// user is whom the image's process is unless a pod says otherwise: nobody in particular.
const user = "65532:65532"

// options say what to write.
type options struct {
	Name, Tag string // of the image
	Version   string
	Created   time.Time // of all that is in the image
	Platforms []platform
}

// platform is an architecture of Linux, in Go's words, and where its programs are.
type platform struct{ arch, dir string }

// The documents of an image layout, as far as they are needed (OCI image specification 1.1: image-layout, image-index,
// manifest, descriptor and config).
type (
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Platform    *osArch           `json:"platform,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	osArch struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	}
	index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	manifest struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        descriptor        `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}
	imageConfig struct {
		osArch

		Created time.Time   `json:"created"`
		Config  process     `json:"config"`
		RootFS  rootFS      `json:"rootfs"`
		History []layerStep `json:"history"`
	}
	process struct {
		User       string            `json:"User"`
		Env        []string          `json:"Env"`
		Entrypoint []string          `json:"Entrypoint"`
		Labels     map[string]string `json:"Labels"`
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	layerStep struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
)

// layout is the blobs of an image layout by digest.
type layout map[string][]byte

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

// add stores a blob.
func (l layout) add(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(content), Size: len(content)}
	l[d.Digest] = content
	return d
}

// addJSON stores a document.
func (l layout) addJSON(mediaType string, document any) (descriptor, error) {
	content, err := json.Marshal(document)
	if err != nil {
		return descriptor{}, err
	}
	return l.add(mediaType, content), nil
}

// addImage stores the image of one platform.
func (l layout) addImage(o options, p platform) (descriptor, error) {
	fs, err := newLayer(p.dir, o.Created)
	if err != nil {
		return descriptor{}, err
	}
	labels := map[string]string{
		"org.opencontainers.image.title": "sluice", "org.opencontainers.image.version": o.Version,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	at := osArch{Architecture: p.arch, OS: "linux"}
	config, err := l.addJSON(typeConfig, imageConfig{
		osArch: at, Created: o.Created,
		Config: process{
			User: user, Env: []string{"PATH=/" + binDir}, Entrypoint: []string{"/" + binDir + "/sluiced"}, Labels: labels,
		},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{fs.diffID}},
		History: []layerStep{{o.Created, "deploy/image/build.sh"}},
	})
	if err != nil {
		return descriptor{}, err
	}
	d, err := l.addJSON(typeManifest, manifest{
		SchemaVersion: 2, MediaType: typeManifest, Config: config,
		Layers: []descriptor{l.add(typeLayer, fs.content)}, Annotations: labels,
	})
	d.Platform = &at
	return d, err
}

// write makes the archive. A file that is there is replaced whole.
func write(path string, o options) error {
	blobs := layout{}
	images := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, p := range o.Platforms {
		image, err := blobs.addImage(o, p)
		if err != nil {
			return err
		}
		images.Manifests = append(images.Manifests, image)
	}
	all, err := blobs.addJSON(typeIndex, images)
	if err != nil {
		return err
	}
	all.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": o.Tag,
		"io.containerd.image.name":          o.Name + ":" + o.Tag, // what `ctr images import` calls it
	}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{all}})
	if err != nil {
		return err
	}
	files := map[string][]byte{"index.json": top, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	for name, content := range blobs {
		files["blobs/"+strings.Replace(name, ":", "/", 1)] = content
	}
	file, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	if err := errors.Join(pack(file, files, o.Created), file.Close()); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(file.Name()))
	}
	return os.Rename(file.Name(), path)
}

// pack writes files in the order of their names, with the directories that they are in.
func pack(w io.Writer, files map[string][]byte, modified time.Time) error {
	archive := tar.NewWriter(w)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		h := tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: modified, Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(&h); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := tar.Header{
			Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: modified, Format: tar.FormatUSTAR,
		}
		if err := archive.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := archive.Write(files[name]); err != nil {
			return err
		}
	}
	return archive.Close()
}
