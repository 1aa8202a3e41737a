package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// object is what is looked at of a rendered manifest.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		Template struct {
			Spec podSpec `json:"spec"`
		} `json:"template"`
		PolicyName        string   `json:"policyName"`
		ValidationActions []string `json:"validationActions"`
	} `json:"spec"`
	Rules   []rule `json:"rules"`
	RoleRef struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	} `json:"roleRef"`
}

type podSpec struct {
	SecurityContext struct {
		RunAsNonRoot   bool              `json:"runAsNonRoot"`
		RunAsUser      int64             `json:"runAsUser"`
		SeccompProfile map[string]string `json:"seccompProfile"`
	} `json:"securityContext"`
	TerminationGracePeriodSeconds int64       `json:"terminationGracePeriodSeconds"`
	InitContainers                []container `json:"initContainers"`
	Containers                    []container `json:"containers"`
}

type container struct {
	Name      string   `json:"name"`
	Args      []string `json:"args"`
	Lifecycle struct {
		PreStop struct {
			Sleep struct {
				Seconds int64 `json:"seconds"`
			} `json:"sleep"`
		} `json:"preStop"`
	} `json:"lifecycle"`
	SecurityContext struct {
		AllowPrivilegeEscalation *bool `json:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `json:"readOnlyRootFilesystem"`
		Capabilities             struct {
			Drop []string `json:"drop"`
		} `json:"capabilities"`
	} `json:"securityContext"`
	Resources struct {
		Requests map[string]any `json:"requests"`
		Limits   map[string]any `json:"limits"`
	} `json:"resources"`
}

type rule struct {
	APIGroups     []string `json:"apiGroups"`
	Resources     []string `json:"resources"`
	ResourceNames []string `json:"resourceNames"`
	Verbs         []string `json:"verbs"`
}

// Kinds that belong to no namespace.
var clusterScoped = map[string]bool{
	"ClusterRole": true, "ClusterRoleBinding": true, "FlowSchema": true, "RuntimeClass": true, "VehiclePool": true,
	"ValidatingAdmissionPolicy": true, "ValidatingAdmissionPolicyBinding": true,
	"MutatingAdmissionPolicy": true, "MutatingAdmissionPolicyBinding": true, "CustomResourceDefinition": true,
}

// What nothing of Kerbside may touch in every namespace, whatever the verb.
var neverClusterWide = []string{"secrets", "configmaps", "serviceaccounts/token", "serviceaccounts", "*"}

// checkRendered checks what the chart promises about its rights and its Pods, in what helm rendered.
func checkRendered(path string) error {
	objects, err := readObjects(path)
	if err != nil {
		return err
	}
	problems := append(placement(objects), pods(objects)...)
	problems = append(problems, narrowed(objects)...)
	if problems = append(problems, rights(objects)...); len(problems) > 0 {
		return fmt.Errorf("%s:\n  %s", path, strings.Join(problems, "\n  "))
	}
	return nil
}

func readObjects(path string) ([]object, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var objects []object
	for i, document := range strings.Split("\n"+string(text), "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", path, i, err)
		}
		if o.Kind != "" {
			objects = append(objects, o)
		}
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("%s holds no object", path)
	}
	return objects, nil
}

// readers gives the namespaces in which kerbside-workload-reader is bound.
func readers(objects []object) []string {
	var namespaces []string
	for _, o := range objects {
		if o.Kind == "RoleBinding" && o.RoleRef.Name == "kerbside-workload-reader" {
			namespaces = append(namespaces, o.Metadata.Namespace)
		}
	}
	return namespaces
}

func placement(objects []object) []string {
	var problems []string
	for _, o := range objects {
		name := o.Kind + "/" + o.Metadata.Name
		if o.Kind != "CustomResourceDefinition" && o.Metadata.Labels["app.kubernetes.io/part-of"] != "kerbside" {
			problems = append(problems, name+" does not say that it is a part of kerbside")
		}
		if clusterScoped[o.Kind] != (o.Metadata.Namespace == "") {
			problems = append(problems, fmt.Sprintf("%s has the namespace %q", name, o.Metadata.Namespace))
		}
	}
	return problems
}

func pods(objects []object) []string {
	var problems []string
	for _, o := range objects {
		spec := o.Spec.Template.Spec
		containers := append(append([]container{}, spec.InitContainers...), spec.Containers...)
		if len(containers) == 0 {
			continue
		}
		if !spec.SecurityContext.RunAsNonRoot || spec.SecurityContext.RunAsUser != 65532 || spec.SecurityContext.SeccompProfile["type"] != "RuntimeDefault" {
			problems = append(problems, o.Kind+"/"+o.Metadata.Name+" must run as 65532, never as root, under the default seccomp profile")
		}
		for _, c := range containers {
			where := fmt.Sprintf("%s/%s container %s", o.Kind, o.Metadata.Name, c.Name)
			s := c.SecurityContext
			if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem || strings.Join(s.Capabilities.Drop, ",") != "ALL" {
				problems = append(problems, where+" must have a read-only root, no capability and no way to more rights")
			}
			if c.Resources.Requests["cpu"] == nil || c.Resources.Requests["memory"] == nil || c.Resources.Limits["memory"] == nil {
				problems = append(problems, where+" must request cpu and memory and limit memory")
			}
			if needed, drains := ending(c); drains && spec.TerminationGracePeriodSeconds < needed {
				problems = append(problems, fmt.Sprintf("%s needs %d s to end, and has %d", where, needed, spec.TerminationGracePeriodSeconds))
			}
		}
	}
	return problems
}

// ending gives how long a program that sends cars away needs to end: its last words take as long as two requests.
func ending(c container) (seconds int64, drains bool) {
	for _, arg := range c.Args {
		if value, found := strings.CutPrefix(arg, "--drain="); found {
			drain, err := time.ParseDuration(value)
			return c.Lifecycle.PreStop.Sleep.Seconds + int64(drain.Seconds()) + 10, err == nil
		}
	}
	return 0, false
}

func rights(objects []object) []string {
	var problems []string
	bound := map[string]bool{}
	for _, o := range objects {
		if o.Kind == "ClusterRoleBinding" {
			bound[o.RoleRef.Name] = true
		}
	}
	for _, o := range objects {
		for _, r := range o.Rules {
			name := o.Kind + "/" + o.Metadata.Name
			if contains(r.Verbs, "*") || contains(r.APIGroups, "*") || contains(r.Resources, "*") {
				problems = append(problems, name+" grants '*'")
			}
			if o.Kind != "ClusterRole" || !bound[o.Metadata.Name] {
				continue
			}
			for _, never := range neverClusterWide {
				if contains(r.Resources, never) {
					problems = append(problems, name+" is bound in the whole cluster and grants "+never)
				}
			}
		}
	}
	return problems
}

// Rights that RBAC gives for every Vehicle, by role and resource, and the policy that leaves of them what is needed.
var narrowedBy = map[[2]string]string{
	{"kerbside-operator", "vehicles/status"}:          "kerbside-operator-says-nothing-of-cars-with-agents",
	{"kerbside-telemetry-gateway", "vehicles"}:        "kerbside-gateway-writes-cars-without-agents-only",
	{"kerbside-telemetry-gateway", "vehicles/status"}: "kerbside-gateway-writes-cars-without-agents-only",
}

// narrowed says which of these rights are given without a policy that denies: one that is bound, and not one that is only there.
func narrowed(objects []object) []string {
	var problems []string
	there, denies := map[string]bool{}, map[string]bool{}
	for _, o := range objects {
		switch o.Kind {
		case "ValidatingAdmissionPolicy":
			there[o.Metadata.Name] = true
		case "ValidatingAdmissionPolicyBinding":
			denies[o.Spec.PolicyName] = contains(o.Spec.ValidationActions, "Deny")
		}
	}
	for _, o := range objects {
		if o.Kind != "ClusterRole" {
			continue
		}
		for _, r := range o.Rules {
			for _, resource := range r.Resources {
				policy, wanted := narrowedBy[[2]string{o.Metadata.Name, resource}]
				if wanted && contains(r.Verbs, "patch") && !(there[policy] && denies[policy]) {
					problems = append(problems, fmt.Sprintf("%s/%s grants %s and is not narrowed by %s", o.Kind, o.Metadata.Name, resource, policy))
				}
			}
		}
	}
	return problems
}

func contains(list []string, wanted string) bool {
	for _, item := range list {
		if item == wanted {
			return true
		}
	}
	return false
}
