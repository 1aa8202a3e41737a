#!/usr/bin/env bash
# Checks the charts without a cluster and without a network.
#
#   hack/charts/check.sh          check
#   hack/charts/check.sh --write  bring charts/kerbside-crds and the table in charts/kerbside/README.md up to date first
#
# helm lint and template with every file of charts/kerbside/ci; the files of ci/refused must be refused with the words of their first line;
# kubeconform against schemas made from the very module that kube-apiserver is built from; and what the chart promises about rights
# and Pods. What a real API server says of all this is the cluster tests' matter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
hack/tools/build.sh helm kubeconform
helm=$(hack/tools/build.sh --path helm)/helm
kubeconform=$(hack/tools/build.sh --path kubeconform)/kubeconform
export GOWORK=off

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd hack/charts && go build -mod=readonly -o "$work/charts" .)
# The programs that check the charts and make the images are checked as well, and the examples', which are Go too.
for module in hack/charts hack/images examples/*/program; do
  (cd "$module" && go vet ./... && go test ./...) >"$work/test.log" 2>&1 || { cat "$work/test.log" >&2; exit 1; }
done

if [ "${1:-}" = --write ]; then
  hack/charts/sync-crds.sh
  "$work/charts" values -chart charts/kerbside -write
fi
hack/charts/sync-crds.sh --check
"$work/charts" values -chart charts/kerbside
"$work/charts" values -chart charts/kerbside-crds

# Kubernetes publishes its schemas inside its module; only kube-apiserver's own version is right.
kubernetes=$(cd hack/tools/kubernetes && go mod download -json k8s.io/kubernetes | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
"$work/charts" schemas -openapi "$kubernetes/api/openapi-spec/swagger.json" -crds crds -out "$work/schemas"

count=0
conform() { # NAME: checks $work/NAME.yaml
  "$kubeconform" -strict -summary -schema-location "$work/schemas/{{ .ResourceKind }}{{ .KindSuffix }}.json" "$work/$1.yaml" >"$work/$1.log" ||
    { echo "check: kubeconform refuses what helm renders with $1:" >&2; cat "$work/$1.log" >&2; exit 1; }
  count=$((count + 1))
}

"$helm" lint --strict --quiet charts/kerbside-crds
"$helm" template kerbside-crds charts/kerbside-crds >"$work/kerbside-crds.yaml"
conform kerbside-crds

for values in charts/kerbside/ci/*.yaml; do
  name=$(basename "$values" .yaml)
  "$helm" lint --strict --quiet charts/kerbside --values "$values"
  "$helm" template kerbside charts/kerbside --namespace kerbside-system --values "$values" >"$work/$name.yaml"
  conform "$name"
  "$work/charts" rendered "$work/$name.yaml"
  # Secrets and tokens of a namespace are read where its owner said so, and nowhere else.
  wanted=$(sed -n 's/^workloadNamespaces: *\[\(.*\)\]$/\1/p' "$values" | tr -d ' ' | tr ',' '\n' | sort)
  bound=$("$work/charts" readers "$work/$name.yaml" | sort)
  [ "$wanted" = "$bound" ] || { echo "check: $name binds kerbside-workload-reader in '$bound', workloadNamespaces are '$wanted'" >&2; exit 1; }
done

refused=0
for values in charts/kerbside/ci/refused/*.yaml; do
  words=$(sed -n '1s/^# refused: //p' "$values")
  [ -n "$words" ] || { echo "check: the first line of $values must be '# refused: WORDS'" >&2; exit 1; }
  if "$helm" template kerbside charts/kerbside --namespace kerbside-system --values "$values" >"$work/refused.log" 2>&1; then
    echo "check: $values was accepted; it should be refused with '$words'" >&2
    exit 1
  fi
  grep -qF -- "$words" "$work/refused.log" || { echo "check: $values was refused, but without the words '$words':" >&2; cat "$work/refused.log" >&2; exit 1; }
  refused=$((refused + 1))
done

# An older cluster: the policy for DaemonSets is left out where no API serves it.
"$helm" template kerbside charts/kerbside --namespace kerbside-system --kube-version 1.35.0 >"$work/old.yaml"
if grep -q MutatingAdmissionPolicy "$work/old.yaml"; then
  echo "check: Kubernetes 1.35 serves no MutatingAdmissionPolicy by itself, but the chart renders one for it" >&2
  exit 1
fi
if "$helm" template kerbside charts/kerbside --kube-version 1.34.9 >/dev/null 2>&1; then
  echo "check: the chart accepts Kubernetes 1.34" >&2
  exit 1
fi
echo "charts: $count renderings conform, $refused values files are refused"
