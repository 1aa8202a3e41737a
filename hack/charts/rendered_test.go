package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const labels = "metadata: {name: a, labels: {app.kubernetes.io/part-of: kerbside}"

func TestRenderedManifestThatBreaksAPromiseIsRefused(t *testing.T) {
	cases := map[string]struct{ manifest, want string }{
		"secrets in the whole cluster": {
			"kind: ClusterRole\n" + labels + "}\nrules: [{apiGroups: [''], resources: [pods, secrets], verbs: [get]}]\n---\nkind: ClusterRoleBinding\n" + labels + "}\nroleRef: {kind: ClusterRole, name: a}\n",
			"grants secrets",
		},
		"a star": {
			"kind: Role\n" + labels + ", namespace: n}\nrules: [{apiGroups: [''], resources: [pods], verbs: ['*']}]\n",
			"grants '*'",
		},
		"no label":     {"kind: Role\nmetadata: {name: a, namespace: n}\n", "part of kerbside"},
		"no namespace": {"kind: Role\n" + labels + "}\n", "has the namespace"},
		"root": {
			"kind: Deployment\n" + labels + ", namespace: n}\nspec: {template: {spec: {containers: [{name: c}]}}}\n",
			"never as root",
		},
		"no time to end": {
			"kind: Deployment\n" + labels + ", namespace: n}\nspec: {template: {spec: {terminationGracePeriodSeconds: 30, containers: [{name: c, args: [--drain=20s], lifecycle: {preStop: {sleep: {seconds: 5}}}}]}}}\n",
			"needs 35 s to end, and has 30",
		},
		"every Vehicle's status": {
			"kind: ClusterRole\nmetadata: {name: kerbside-operator, labels: {app.kubernetes.io/part-of: kerbside}}\nrules: [{apiGroups: [kerbside.dev], resources: [vehicles/status], verbs: [patch]}]\n---\nkind: ValidatingAdmissionPolicy\nmetadata: {name: kerbside-operator-says-nothing-of-cars-with-agents, labels: {app.kubernetes.io/part-of: kerbside}}\n---\nkind: ValidatingAdmissionPolicyBinding\n" + labels + "}\nspec: {policyName: kerbside-operator-says-nothing-of-cars-with-agents, validationActions: [Audit]}\n",
			"is not narrowed by kerbside-operator-says-nothing-of-cars-with-agents",
		},
		"nothing": {"# empty\n", "holds no object"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "rendered.yaml")
			if err := os.WriteFile(path, []byte(c.manifest), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := checkRendered(path); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestRoleBoundPerNamespaceMayReadSecrets(t *testing.T) {
	manifest := "kind: ClusterRole\n" + labels + "}\nrules: [{apiGroups: [''], resources: [secrets], verbs: [get]}]\n"
	path := filepath.Join(t.TempDir(), "rendered.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := checkRendered(path); err != nil {
		t.Fatal(err)
	}
}

func TestValuesThatDifferFromTheSchemaAreNamed(t *testing.T) {
	chart := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(chart, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("values.yaml", "a: 1\nb: {c: 2}\n")
	write("values.schema.json", `{"additionalProperties": false, "required": ["b", "d"], "properties": {
		"b": {"description": "x", "required": ["c"], "properties": {"c": {"description": "x"}}}, "d": {"description": "x"}}}`)
	err := checkValues(chart, false)
	if err == nil {
		t.Fatal("the values were accepted")
	}
	for _, want := range []string{"a is in values.yaml and not", "d is in the schema and not", `schema of "b" is open`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
