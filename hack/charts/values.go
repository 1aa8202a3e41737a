package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	tableBegin = "<!-- values: made by hack/charts from values.yaml and values.schema.json -->"
	tableEnd   = "<!-- end of values -->"
)

// schemaNode is the part of a JSON schema that is looked at here.
type schemaNode struct {
	Description          string                 `json:"description"`
	Properties           map[string]*schemaNode `json:"properties"`
	AdditionalProperties any                    `json:"additionalProperties"`
	Required             []string               `json:"required"`
}

// row is one line of README's table.
type row struct{ name, value, description string }

// checkValues checks that values.yaml and values.schema.json have the same keys, that every object of the schema is closed and every key
// required and described, and that README.md lists them. Helm itself checks the values against the schema.
func checkValues(chart string, write bool) error {
	values, err := readValues(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return err
	}
	var schema schemaNode
	text, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		return fmt.Errorf("failed to parse values.schema.json: %w", err)
	}
	// Helm gives every chart this key when it is a part of another.
	delete(schema.Properties, "global")

	var rows []row
	problems := compare("", &schema, values, &rows)
	if len(problems) > 0 {
		sort.Strings(problems)
		return fmt.Errorf("%s: values.yaml and values.schema.json differ:\n  %s", chart, strings.Join(problems, "\n  "))
	}
	if len(values) == 0 {
		return nil
	}
	return table(filepath.Join(chart, "README.md"), rows, write)
}

func readValues(path string) (map[string]any, error) {
	text, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		return nil, fmt.Errorf("failed to parse %s: %w", path, err)
	}
	return values, nil
}

func compare(path string, schema *schemaNode, values map[string]any, rows *[]row) []string {
	var problems []string
	if schema.AdditionalProperties != false {
		problems = append(problems, fmt.Sprintf("the schema of %q is open: additionalProperties must be false", path))
	}
	required := map[string]bool{}
	for _, key := range schema.Required {
		required[key] = true
	}
	for _, key := range sortedKeys(schema.Properties) {
		full := strings.TrimPrefix(path+"."+key, ".")
		node := schema.Properties[key]
		value, there := values[key]
		switch {
		case !there:
			problems = append(problems, full+" is in the schema and not in values.yaml")
			continue
		case !required[key]:
			problems = append(problems, full+" is not in the schema's 'required': a null would pass")
		case node.Description == "":
			problems = append(problems, full+" has no description in the schema")
		}
		inner, isMap := value.(map[string]any)
		if isMap && node.Properties != nil {
			problems = append(problems, compare(full, node, inner, rows)...)
			continue
		}
		shown, err := json.Marshal(value)
		if err != nil {
			problems = append(problems, full+": "+err.Error())
		}
		*rows = append(*rows, row{full, string(shown), node.Description})
	}
	for key := range values {
		if schema.Properties[key] == nil {
			problems = append(problems, strings.TrimPrefix(path+"."+key, ".")+" is in values.yaml and not in the schema")
		}
	}
	return problems
}

func sortedKeys(nodes map[string]*schemaNode) []string {
	keys := make([]string, 0, len(nodes))
	for key := range nodes {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

// table checks the part of README.md between the two marks, or writes it.
func table(readme string, rows []row, write bool) error {
	text, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), tableBegin)
	_, after, foundEnd := strings.Cut(rest, tableEnd)
	if !found || !foundEnd {
		return fmt.Errorf("%s has no place for the table of values: %s … %s", readme, tableBegin, tableEnd)
	}
	var made strings.Builder
	made.WriteString(before + tableBegin + "\n| value | default | what it is |\n|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&made, "| `%s` | `%s` | %s |\n", r.name, r.value, strings.ReplaceAll(r.description, "|", "\\|"))
	}
	made.WriteString(tableEnd + after)
	if made.String() == string(text) {
		return nil
	}
	if !write {
		return fmt.Errorf("%s does not list the values as they are; run hack/charts/check.sh --write", readme)
	}
	return os.WriteFile(readme, []byte(made.String()), 0o644)
}
