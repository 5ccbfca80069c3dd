package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Media types of https://github.com/opencontainers/image-spec.
const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// imageConfig is the image as deploy/Dockerfile describes it; a test holds the two together.
type imageConfig struct {
	Created      string    `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       runConfig `json:"config"`
	RootFS       rootFS    `json:"rootfs"`
	History      []history `json:"history"`
}

type runConfig struct {
	User         string
	ExposedPorts map[string]struct{}
	Entrypoint   []string
	Cmd          []string
	WorkingDir   string
	Labels       map[string]string
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   string `json:"created"`
	CreatedBy string `json:"created_by"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// writeArchive writes the tree as an image of one layer, in one file that is both an OCI layout and what docker load takes. It
// gives the image's ID.
func writeArchive(path, name, arch, tree string, f facts) (string, error) {
	layer, err := layerOf(tree, f.created)
	if err != nil {
		return "", err
	}
	created := f.created.Format(time.RFC3339)
	config, err := json.Marshal(imageConfig{
		Created: created, Architecture: arch, OS: "linux",
		Config: runConfig{
			User: "65532:65532", ExposedPorts: map[string]struct{}{"8080/tcp": {}},
			Entrypoint: []string{"/" + binaryName}, Cmd: []string{"serve"},
			Labels: map[string]string{
				"org.opencontainers.image.title":       binaryName,
				"org.opencontainers.image.description": "Carries updates from NATS JetStream into Europace KreditSmart",
				"org.opencontainers.image.version":     f.version,
				"org.opencontainers.image.revision":    f.revision,
				"org.opencontainers.image.created":     created,
			},
		},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{digest(layer)}},
		History: []history{{Created: created, CreatedBy: "go run ./deploy/image"}},
	})
	if err != nil {
		return "", fmt.Errorf("writing the image's configuration: %w", err)
	}
	files, err := layout(name, config, layer)
	if err != nil {
		return "", err
	}
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	for _, file := range files {
		if err := put(out, file.name, file.content, 0o644, f.created); err != nil {
			return "", err
		}
	}
	if err := out.Close(); err != nil {
		return "", fmt.Errorf("writing the archive: %w", err)
	}
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil { //nolint:gosec // It is no secret.
		return "", fmt.Errorf("writing the archive: %w", err)
	}
	return digest(config), nil
}

// file is one of the archive.
type file struct {
	name    string
	content []byte
}

// layout are the files of the archive: the OCI layout's, and docker's manifest.json that names the same blobs.
func layout(name string, config, layer []byte) ([]file, error) {
	manifest, err := json.Marshal(struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{
		2, typeManifest,
		descriptor{MediaType: typeConfig, Digest: digest(config), Size: len(config)},
		[]descriptor{{MediaType: typeLayer, Digest: digest(layer), Size: len(layer)}},
	})
	if err != nil {
		return nil, fmt.Errorf("writing the image's manifest: %w", err)
	}
	index, err := json.Marshal(struct {
		SchemaVersion int          `json:"schemaVersion"`
		Manifests     []descriptor `json:"manifests"`
	}{2, []descriptor{{
		MediaType: typeManifest, Digest: digest(manifest), Size: len(manifest),
		Annotations: map[string]string{"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name},
	}}})
	if err != nil {
		return nil, fmt.Errorf("writing the archive's index: %w", err)
	}
	docker, err := json.Marshal([]struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{{blob(config), []string{name}, []string{blob(layer)}}})
	if err != nil {
		return nil, fmt.Errorf("writing the archive's index: %w", err)
	}
	return []file{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", index},
		{"manifest.json", docker},
		{blob(config), config},
		{blob(manifest), manifest},
		{blob(layer), layer},
	}, nil
}

// layerOf is the tree as a layer. Everything belongs to root, so that the image's user cannot change it.
func layerOf(tree string, at time.Time) ([]byte, error) {
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	for _, f := range []struct {
		name string
		mode int64
	}{{binaryName, 0o755}, {sbomName, 0o644}} {
		content, err := os.ReadFile(filepath.Join(tree, f.name)) //nolint:gosec // It is one of two names.
		if err != nil {
			return nil, fmt.Errorf("reading the image's tree: %w", err)
		}
		if err := put(out, f.name, content, f.mode, at); err != nil {
			return nil, err
		}
	}
	if err := out.Close(); err != nil {
		return nil, fmt.Errorf("writing the layer: %w", err)
	}
	return layer.Bytes(), nil
}

func put(out *tar.Writer, name string, content []byte, mode int64, at time.Time) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: mode, ModTime: at, Format: tar.FormatUSTAR}
	if err := out.WriteHeader(header); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if _, err := out.Write(content); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func blob(content []byte) string { return "blobs/sha256/" + digest(content)[len("sha256:"):] }
