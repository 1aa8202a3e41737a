#!/usr/bin/env bash
# Installs Kerbside into a cluster with Helm, as a user would, and gives it work for simulated cars inside that cluster.
#
#   hack/in-cluster.sh kind [JOB]      a cluster made by kind, left running to look around; needs Docker (make kind-demo)
#   hack/in-cluster.sh kubelet [JOB]   a real kubelet on this machine; afterwards upgrade, uninstall, and not a trace (make install-test)
#   hack/in-cluster.sh kind --check    whether this machine can do it; nothing is built or started
#   hack/in-cluster.sh kind --down     delete the kind cluster
#
# JOB is digits or hello. The two clusters differ only in the functions of hack/clusters/*.sh. Everything is written to out/kind or
# out/kubelet; what goes wrong is shown.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cluster=${1:?usage: hack/in-cluster.sh kind|kubelet [digits|hello|--check|--down]}
job=${2:-hello}
[ -e "hack/clusters/$cluster.sh" ] || { echo "in-cluster: there is no cluster '$cluster'; there are kind and kubelet" >&2; exit 2; }
dir=$PWD/out/$cluster
bin=${KERBSIDE_BIN:-${CARGO_TARGET_DIR:-${KERBSIDE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kerbside}/target}/debug}
testbed=$bin/kerbside-testbed
vehicles=${VEHICLES:-2}
system=kerbside-system
skipped=
registry=
. "hack/clusters/$cluster.sh"
. hack/in-cluster-steps.sh

if [ "$job" = --down ]; then
  cluster_down
  exit 0
fi
# Before anything is built.
cluster_check
if [ -n "$skipped" ]; then
  echo "install-test: skipped: $skipped"
  # What CI skips, nobody checks.
  [ "${CI:-}" != true ] || { echo "install-test: with CI=true that is a failure" >&2; exit 1; }
  exit 0
fi
[ "$job" != --check ] || exit 0
# What a killed run of this machine's node left; a kind cluster is for a person to delete.
if [ "$cluster" = kubelet ]; then
  cluster_down >/dev/null
fi
rm -rf "$dir"
mkdir -p "$dir"
hack/tools/build.sh kubernetes helm
PATH=$(hack/tools/build.sh --path kubernetes):$(hack/tools/build.sh --path helm):$PATH
export PATH

finish() {
  local code=$?
  if [ "$code" -ne 0 ]; then
    show_state || true
  fi
  # The kind cluster stays, to look around; whoever made a node of this machine takes it away again.
  if [ "$cluster" = kubelet ]; then
    cluster_down >>"$dir/log" 2>&1 || true
  fi
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

step "a cluster: $cluster" cluster_up
step "images" make_images
step "the examples' programs" cluster_publish
snapshot >"$dir/before"
step "helm install" install_charts
step "$vehicles cars" wait_for_cars
step "job $job" run_job "$job" "$cluster"
results "$job"
if [ "$cluster" = kubelet ]; then
  step "a DaemonSet that tolerates everything stays off the cars" check_daemonset
  step "helm upgrade, and a job after it" upgrade
  step "helm uninstall in the middle of a job" uninstall
  step "no trace is left" check_no_trace
  echo "install-test: installed, $job done on $vehicles cars, upgraded, uninstalled without a trace in $SECONDS s"
else
  echo
  echo "  The cluster is yours to look at: export KUBECONFIG=$KUBECONFIG; kubectl get vehicles,nodes,fleetjobs -A"
  echo "  'make kind-demo-down' deletes it."
fi
