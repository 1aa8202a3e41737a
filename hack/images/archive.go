package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"time"
)

const (
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
	configType   = "application/vnd.oci.image.config.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	// 65532 is what distributions of small images call nonroot.
	user = "65532:65532"
)

// The time of everything, so that the same input gives the same bytes.
var epoch = time.Unix(0, 0).UTC()

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// layer is a compressed tar file and the digest of what is in it.
type layer struct {
	compressed []byte
	diffID     string
}

// image is everything that an archive is made from.
type image struct {
	ref, version, title, architecture, entrypoint string
	layers                                        []layer
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// newLayer makes a layer of files, in the order of their paths, with the folders above them.
func newLayer(files []file) (layer, error) {
	all := map[string]file{}
	for _, f := range files {
		all[f.path] = f
		for folder := filepath.Dir(f.path); folder != "."; folder = filepath.Dir(folder) {
			if _, known := all[folder]; !known {
				all[folder] = file{path: folder, mode: 0o755, directory: true}
			}
		}
	}
	paths := make([]string, 0, len(all))
	for path := range all {
		paths = append(paths, path)
	}
	sort.Strings(paths)

	var plain bytes.Buffer
	writer := tar.NewWriter(&plain)
	for _, path := range paths {
		if err := addFile(writer, all[path]); err != nil {
			return layer{}, err
		}
	}
	if err := writer.Close(); err != nil {
		return layer{}, err
	}
	var compressed bytes.Buffer
	// No name and no time in the header: Go writes none unless told.
	zip, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	if err != nil {
		return layer{}, err
	}
	if _, err := zip.Write(plain.Bytes()); err != nil {
		return layer{}, err
	}
	if err := zip.Close(); err != nil {
		return layer{}, err
	}
	return layer{compressed: compressed.Bytes(), diffID: digest(plain.Bytes())}, nil
}

func addFile(writer *tar.Writer, f file) error {
	header := &tar.Header{Name: f.path, Mode: f.mode, ModTime: epoch, Typeflag: tar.TypeReg, Size: int64(len(f.content)), Format: tar.FormatUSTAR}
	if f.directory {
		header.Typeflag, header.Name, header.Size = tar.TypeDir, f.path+"/", 0
	}
	if err := writer.WriteHeader(header); err != nil {
		return err
	}
	_, err := writer.Write(f.content)
	return err
}

// config is the image's configuration, as in the OCI specification.
func (i image) config() ([]byte, error) {
	diffIDs := make([]string, len(i.layers))
	for n, l := range i.layers {
		diffIDs[n] = l.diffID
	}
	return json.Marshal(map[string]any{
		"created": epoch.Format(time.RFC3339), "architecture": i.architecture, "os": "linux",
		"config": map[string]any{
			"User": user, "Entrypoint": []string{i.entrypoint}, "WorkingDir": "/",
			"Env":    []string{"PATH=/usr/local/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "HOME=/tmp"},
			"Labels": i.labels(),
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
}

func (i image) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title": i.title, "org.opencontainers.image.version": i.version,
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
}

func (i image) manifest() (manifest, config []byte, err error) {
	config, err = i.config()
	if err != nil {
		return nil, nil, err
	}
	layers := make([]descriptor, len(i.layers))
	for n, l := range i.layers {
		layers[n] = descriptor{MediaType: layerType, Digest: digest(l.compressed), Size: len(l.compressed)}
	}
	manifest, err = json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": descriptor{MediaType: configType, Digest: digest(config), Size: len(config)},
		"layers": layers,
	})
	return manifest, config, err
}

// digest is what a registry will call the image.
func (i image) digest() string {
	manifest, _, err := i.manifest()
	if err != nil {
		return err.Error()
	}
	return digest(manifest)
}

func (i image) size() int {
	size := 0
	for _, l := range i.layers {
		size += len(l.compressed)
	}
	return size
}

// write makes the archive in one step: whoever looks sees the old one or the new one.
func (i image) write(path string) error {
	manifest, config, err := i.manifest()
	if err != nil {
		return err
	}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": indexType,
		"manifests": []descriptor{{
			MediaType: manifestType, Digest: digest(manifest), Size: len(manifest),
			Platform: &platform{Architecture: i.architecture, OS: "linux"},
			// The first is what OCI tools look at, the second what containerd takes as the name.
			Annotations: map[string]string{"org.opencontainers.image.ref.name": i.ref, "io.containerd.image.name": i.ref},
		}},
	})
	if err != nil {
		return err
	}
	files := []file{
		{path: "oci-layout", content: []byte(`{"imageLayoutVersion":"1.0.0"}`), mode: 0o644},
		{path: "index.json", content: index, mode: 0o644},
		blob(manifest), blob(config),
	}
	docker := map[string]any{"Config": blob(config).path, "RepoTags": []string{i.ref}}
	layers := make([]string, len(i.layers))
	for n, l := range i.layers {
		files = append(files, blob(l.compressed))
		layers[n] = blob(l.compressed).path
	}
	docker["Layers"] = layers
	forDocker, err := json.Marshal([]any{docker})
	if err != nil {
		return err
	}
	files = append(files, file{path: "manifest.json", content: forDocker, mode: 0o644})

	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), ".image-*")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	if err := writeArchive(temporary, files); err != nil {
		temporary.Close()
		return err
	}
	if err := temporary.Close(); err != nil {
		return err
	}
	if err := os.Chmod(temporary.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

func blob(content []byte) file {
	return file{path: "blobs/sha256/" + digest(content)[len("sha256:"):], content: content, mode: 0o644}
}

func writeArchive(out io.Writer, files []file) error {
	writer := tar.NewWriter(out)
	seen := map[string]bool{}
	for _, f := range files {
		if seen[f.path] {
			continue
		}
		seen[f.path] = true
		if err := addFile(writer, f); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return writer.Close()
}
