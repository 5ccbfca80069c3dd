package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A bill of materials in CycloneDX 1.6, as far as a Go binary knows: https://cyclonedx.org/docs/1.6/json/.
type bom struct {
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	SerialNumber string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Hashes     []hash     `json:"hashes,omitempty"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// sbom lists every module that is in the binary, by what the binary itself says, and Go's standard library. It is the same for
// the same binary.
func sbom(binary string, f facts) ([]byte, error) {
	content, err := os.ReadFile(binary) //nolint:gosec // It was just built.
	if err != nil {
		return nil, fmt.Errorf("reading the binary: %w", err)
	}
	sum := sha256.Sum256(content)
	list := bom{
		Format: "CycloneDX", SpecVersion: "1.6", Version: 1,
		SerialNumber: "urn:uuid:" + uuid.NewSHA1(uuid.NameSpaceOID, sum[:]).String(),
		Metadata: metadata{Timestamp: f.created.Format(time.RFC3339), Component: component{
			Type: "application", Name: binaryName, Version: f.version,
			Ref: purl(f.info.Main.Path, f.version), PURL: purl(f.info.Main.Path, f.version),
			Hashes: []hash{{Algorithm: "SHA-256", Content: hex.EncodeToString(sum[:])}},
		}},
	}
	goVersion := strings.TrimPrefix(f.info.GoVersion, "go")
	list.Components = append(list.Components, component{
		Type: "library", Name: "std", Version: goVersion, Ref: purl("std", goVersion), PURL: purl("std", goVersion),
	})
	for _, module := range f.info.Deps {
		list.Components = append(list.Components, componentOf(module))
	}
	// Which module needs which the binary does not say; that it needs all of them it does.
	all := dependency{Ref: list.Metadata.Component.Ref}
	for _, c := range list.Components {
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	list.Dependencies = []dependency{all}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(list); err != nil {
		return nil, fmt.Errorf("writing the list of parts: %w", err)
	}
	return text.Bytes(), nil
}

// componentOf is a module, or the one that was put in its place. Go's checksum is one of the module's files, not of an
// archive that could be hashed again: so it is told as a property.
func componentOf(module *debug.Module) component {
	used := module
	if module.Replace != nil {
		used = module.Replace
	}
	c := component{
		Type: "library", Name: used.Path, Version: used.Version, Ref: purl(used.Path, used.Version), PURL: purl(used.Path, used.Version),
	}
	if used.Sum != "" {
		c.Properties = append(c.Properties, property{Name: "go:sum", Value: used.Sum})
	}
	if module.Replace != nil {
		c.Properties = append(c.Properties, property{Name: "go:replaces", Value: module.Path + "@" + module.Version})
	}
	return c
}

// purl is a module's package URL. Of what a version may have, only a plus must be written otherwise.
func purl(path, version string) string {
	return "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
}
