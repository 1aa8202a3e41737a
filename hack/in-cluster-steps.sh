# The steps of hack/in-cluster.sh, the same for every cluster. Sourced by it.

# Runs a step with its output in the log, and says how long it took.
step() {
  local what=$1 started=$SECONDS
  shift
  echo "### $what" >>"$dir/log"
  # In this shell, so that it can leave variables behind, and errors end it.
  "$@" >>"$dir/log" 2>&1
  printf '  %4d s  %s\n' $((SECONDS - started)) "$what"
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >>"$dir/log" 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "in-cluster: waited too long for $what" >&2; return 1; }
    sleep 0.5
  done
}

make_images() {
  local archives
  hack/images/build.sh --out "$dir/images"
  archives=("$dir"/images/{operator,virtual-kubelet,vehicle-agent,kubectl-fleet}.tar)
  cluster_load "${archives[@]}"
}

# Every object of the cluster that somebody keeps, one a line. Events end by themselves; a namespace's own root certificate comes and
# goes with it.
snapshot() {
  local kinds
  kinds=$(on kubectl api-resources --verbs=list -o name | grep -vE '^(endpoints|events|events\.events\.k8s\.io|componentstatuses)$' | paste -sd,)
  on kubectl get "$kinds" --all-namespaces --ignore-not-found -o custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name --no-headers 2>>"$dir/log" |
    tr -s ' ' | sort
}

install_charts() {
  cluster_values >"$dir/values.yaml"
  on helm install kerbside-crds charts/kerbside-crds --namespace "$system" --create-namespace --wait --timeout 60s
  on helm install kerbside charts/kerbside --namespace "$system" --values "$dir/values.yaml" --set "demoFleet.vehicles=$vehicles" \
    --wait --timeout 180s
}

cars_are_available() {
  [ "$(on kubectl get vehicles -o jsonpath='{range .items[*]}{.status.phase}{"\n"}{end}' | grep -cx Available)" -eq "$vehicles" ]
}

wait_for_cars() {
  wait_for 120 "$vehicles cars to be Available" cars_are_available
  on kubectl get vehicles,nodes -o wide
}

# apply_job EXAMPLE NAMESPACE
apply_job() {
  on kubectl create namespace "$2" --dry-run=client -o yaml | on kubectl apply -f -
  sed -e "s|\${REGISTRY}|$registry|g" -e "s|namespace: default|namespace: $2|" "examples/$1/fleetjob.yaml" | on kubectl apply -f -
}

# run_job EXAMPLE NAMESPACE
run_job() {
  apply_job "$1" "$2"
  on kubectl -n "$2" wait "fleetjob/$1" --for=condition=Complete --timeout=900s
  on kubectl -n "$2" get "fleetjob/$1" -o wide
  mkdir -p "$dir/results"
  on "$bin/kubectl-fleet" --system-namespace "$system" -n "$2" results "$1" -o "$dir/results/$1" "${operator[@]}"
  on "$bin/kubectl-fleet" --system-namespace "$system" -n "$2" logs "$1" --index 0 "${operator[@]}"
  if [ "$1" = digits ]; then
    find "$dir/results/digits" -name predictions.csv -exec cat {} + | sort -t, -k1,1n >"$dir/predictions.csv"
    diff "$dir/predictions.csv" examples/digits/expected.csv
  fi
}

# What the job gave, for people.
results() {
  if [ "$1" = digits ]; then
    local first
    first=$(tr -d '\n' <examples/digits/model/model.json | sed -n 's/.*"heldBack":{[^}]*"first": *\([0-9]*\).*/\1/p;s/.*"heldBack": *{[^}]*"first": *\([0-9]*\).*/\1/p' | head -1)
    awk -F, -v first="${first:-0}" '$1 >= first {all++; right += $2 == $4} END {printf "          accuracy %.4f on %d images that training never saw; every line as expected\n", right / all, all}' "$dir/predictions.csv"
  else
    find "$dir/results/$1" -type f | sort | head -5 | sed "s|$dir/|          |"
  fi
}

check_daemonset() {
  on kubectl apply -f - <<EOF
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: proxy-like, namespace: kube-system}
spec:
  selector: {matchLabels: {app: proxy-like}}
  template:
    metadata: {labels: {app: proxy-like}}
    spec:
      priorityClassName: system-node-critical
      tolerations: [{operator: Exists}]
      containers: [{name: pause, image: "localhost/kerbside/pause:1", imagePullPolicy: Never}]
EOF
  on kubectl -n kube-system rollout status daemonset/proxy-like --timeout=60s
  # Its next version rolls out as well: no car is waited for.
  on kubectl -n kube-system patch daemonset proxy-like --type=merge -p '{"spec":{"template":{"metadata":{"annotations":{"v":"2"}}}}}'
  on kubectl -n kube-system rollout status daemonset/proxy-like --timeout=60s
  local wanted
  wanted=$(on kubectl -n kube-system get daemonset proxy-like -o jsonpath='{.status.desiredNumberScheduled}')
  [ "$wanted" = 1 ] || { echo "the DaemonSet wants $wanted Pods; there is one node that is not a car"; return 1; }
  on kubectl -n kube-system delete daemonset proxy-like --wait --timeout=60s
}

upgrade() {
  local before after
  before=$(on kubectl get vehicles -o name | sort)
  on helm upgrade kerbside charts/kerbside --namespace "$system" --reset-then-reuse-values --set logLevel=debug --wait --timeout 180s
  on kubectl -n "$system" get deployment kerbside-operator -o jsonpath='{.spec.template.spec.containers[0].args}' | grep -q -- --log=debug
  wait_for 120 "the cars to be Available again" cars_are_available
  after=$(on kubectl get vehicles -o name | sort)
  [ "$before" = "$after" ] || { echo "the upgrade changed the cars: $before -> $after"; return 1; }
  on kubectl -n kubelet delete fleetjob hello --ignore-not-found --wait --timeout=60s
  run_job hello kubelet
}

job_runs() {
  [ -n "$(on kubectl -n busy get pods --field-selector=status.phase=Running -o name)" ]
}

# The hook's Job is deleted when it is done; what it says is read while it runs.
hear_hook() {
  for _ in $(seq 100); do
    on kubectl -n "$system" logs --follow --selector app.kubernetes.io/name=kerbside-uninstall --tail=-1 2>/dev/null | grep . && return
    sleep 0.2
  done
}

uninstall() {
  apply_job digits busy
  wait_for 120 "the job to run" job_runs
  hear_hook &
  on helm uninstall kerbside --namespace "$system" --timeout 300s
  # Suspended, not lost: what a user gave is the user's until the definitions go.
  [ "$(on kubectl -n busy get fleetjob digits -o jsonpath='{.spec.suspend}')" = true ]
  if on kubectl get pods --all-namespaces -o jsonpath='{.items[*].metadata.finalizers}' | grep kerbside.dev; then
    echo "a Pod has a finalizer of ours still"
    return 1
  fi
  on helm uninstall kerbside-crds --namespace "$system" --wait --timeout 60s
}

# The difference to how the cluster was before. First with the namespaces that were made for this, which hold what every namespace holds
# and nothing else, then without them.
no_trace() {
  snapshot >"$dir/after"
  diff "$dir/before" <(sed -E "/^Namespace <none> (busy|kubelet|$system)$/d; /^(ConfigMap|ServiceAccount) (busy|kubelet|$system) (kube-root-ca.crt|default)$/d" "$dir/after")
}

check_no_trace() {
  # The garbage collectors of objects and of Pods without a Node are a little behind.
  wait_for 120 "the last objects to go" no_trace
  # None of them hangs.
  on kubectl delete namespace busy kubelet "$system" --wait --timeout=60s
  wait_for 30 "the namespaces' objects to go" no_trace
}

# What a person would look at first.
show_state() {
  {
    echo "--- the end of $dir/log"
    tail -40 "$dir/log"
    echo "--- Pods, Vehicles, Nodes, FleetJobs"
    on kubectl get pods --all-namespaces -o wide
    on kubectl get vehicles,nodes
    on kubectl get fleetjobs --all-namespaces
    echo "--- Events"
    on kubectl get events --all-namespaces --sort-by=.lastTimestamp | tail -15
    for pod in $(on kubectl -n "$system" get pods -o name); do
      echo "--- $pod"
      on kubectl -n "$system" logs "$pod" --all-containers --tail=15
    done
  } 2>&1 | sed 's/^/    | /' >&2
}
