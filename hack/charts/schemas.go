package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

const definitionPrefix = "#/definitions/"

// kind is one entry of x-kubernetes-group-version-kind.
type kind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
}

// fileName is what kubeconform's default template asks for: {kind}-{group up to its first dot}-{version}.json, all in lower case.
func (k kind) fileName() string {
	parts := []string{k.Kind}
	if k.Group != "" {
		parts = append(parts, strings.Split(k.Group, ".")[0])
	}
	return strings.ToLower(strings.Join(append(parts, k.Version), "-")) + ".json"
}

// writeSchemas makes one self-contained schema per kind, in which an unknown field is an error.
func writeSchemas(openapi, crds, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	text, err := os.ReadFile(openapi)
	if err != nil {
		return fmt.Errorf("failed to read Kubernetes' schemas: %w", err)
	}
	var document struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(text, &document); err != nil {
		return fmt.Errorf("failed to parse %s: %w", openapi, err)
	}
	if len(document.Definitions) == 0 {
		return fmt.Errorf("%s has no definitions", openapi)
	}
	for name, definition := range document.Definitions {
		kinds, err := kindsOf(definition)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		// Lists and options of the API's own verbs are nothing that a chart holds.
		if len(kinds) != 1 {
			continue
		}
		reachable := map[string]any{}
		collect(document.Definitions, name, reachable)
		schema := map[string]any{"$ref": definitionPrefix + name, "definitions": reachable}
		if err := writeJSON(filepath.Join(out, kinds[0].fileName()), schema); err != nil {
			return err
		}
	}
	return writeCRDSchemas(crds, out)
}

func kindsOf(definition map[string]any) ([]kind, error) {
	raw, ok := definition["x-kubernetes-group-version-kind"]
	if !ok {
		return nil, nil
	}
	text, err := json.Marshal(raw)
	if err != nil {
		return nil, err
	}
	var kinds []kind
	return kinds, json.Unmarshal(text, &kinds)
}

// collect puts a definition and all that it refers to into found, each closed to unknown fields.
func collect(all map[string]map[string]any, name string, found map[string]any) {
	if _, known := found[name]; known {
		return
	}
	definition, ok := all[name]
	if !ok {
		return
	}
	found[name] = closed(definition)
	for _, reference := range references(definition) {
		collect(all, reference, found)
	}
}

func references(value any) []string {
	var found []string
	switch v := value.(type) {
	case map[string]any:
		if reference, ok := v["$ref"].(string); ok {
			found = append(found, strings.TrimPrefix(reference, definitionPrefix))
		}
		for _, inner := range v {
			found = append(found, references(inner)...)
		}
	case []any:
		for _, inner := range v {
			found = append(found, references(inner)...)
		}
	}
	return found
}

// closed copies a schema so that objects with known fields have no others, and what Kubernetes writes as "format: int-or-string" is
// what JSON Schema calls either.
func closed(value any) any {
	switch v := value.(type) {
	case map[string]any:
		copied := make(map[string]any, len(v)+1)
		for key, inner := range v {
			copied[key] = closed(inner)
		}
		if v["format"] == "int-or-string" || v["x-kubernetes-int-or-string"] == true {
			delete(copied, "format")
			copied["type"] = []any{"integer", "string"}
		}
		_, hasFields := v["properties"].(map[string]any)
		_, open := v["additionalProperties"]
		if hasFields && !open && v["x-kubernetes-preserve-unknown-fields"] != true {
			copied["additionalProperties"] = false
		}
		return copied
	case []any:
		copied := make([]any, len(v))
		for i, inner := range v {
			copied[i] = closed(inner)
		}
		return copied
	}
	return value
}

// writeCRDSchemas does the same for our own kinds.
func writeCRDSchemas(folder, out string) error {
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("%s holds no CustomResourceDefinition", folder)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var crd struct {
			Spec struct {
				Group string `json:"group"`
				Names struct {
					Kind string `json:"kind"`
				} `json:"names"`
				Versions []struct {
					Name   string `json:"name"`
					Schema struct {
						OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
					} `json:"schema"`
				} `json:"versions"`
			} `json:"spec"`
		}
		if err := yaml.Unmarshal(text, &crd); err != nil {
			return fmt.Errorf("failed to parse %s: %w", file, err)
		}
		for _, version := range crd.Spec.Versions {
			schema, ok := closed(version.Schema.OpenAPIV3Schema).(map[string]any)
			if !ok {
				return fmt.Errorf("%s: version %s has no schema", file, version.Name)
			}
			// The API server adds these to every kind.
			fields, ok := schema["properties"].(map[string]any)
			if !ok {
				return fmt.Errorf("%s: version %s has no fields", file, version.Name)
			}
			fields["apiVersion"] = map[string]any{"type": "string"}
			fields["kind"] = map[string]any{"type": "string"}
			fields["metadata"] = map[string]any{"type": "object"}
			k := kind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}
			if err := writeJSON(filepath.Join(out, k.fileName()), schema); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
