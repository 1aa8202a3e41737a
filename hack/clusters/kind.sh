# A cluster that kind makes. Sourced by hack/in-cluster.sh; needs Docker.
name=kerbside-demo
export KUBECONFIG=$dir/kubeconfig

# Runs a command where the cluster is reached.
on() { "$@"; }

cluster_check() {
  docker info >/dev/null 2>&1 || { echo "in-cluster: kind needs Docker, and 'docker info' fails here; 'make install-test' needs none" >&2; exit 2; }
  # As kind itself finds its clusters, without having to build kind first.
  if [ -n "$(docker ps --all --quiet --filter "label=io.x-k8s.kind.cluster=$name")" ]; then
    echo "in-cluster: there is a kind cluster '$name' already; 'make kind-demo-down' deletes it" >&2
    exit 2
  fi
}

cluster_up() {
  hack/tools/build.sh kind
  kind=$(hack/tools/build.sh --path kind)/kind
  "$kind" create cluster --config hack/tools/kind.yaml --kubeconfig "$KUBECONFIG" --wait 120s
}

cluster_load() {
  hack/images/build.sh --out "$dir/images" --tag demo registry
  for archive in "$@" "$dir/images/registry.tar"; do
    "$kind" load image-archive "$archive" --name "$name"
  done
}

# Pushes the examples' programs; cars then reach them at $registry.
cluster_publish() {
  local forward port
  kubectl apply -f hack/clusters/registry.yaml
  kubectl -n kerbside-demo rollout status deployment/registry --timeout=120s
  # The file is there before the process that writes it is.
  : >"$dir/port-forward.log"
  kubectl -n kerbside-demo port-forward service/registry :5000 >"$dir/port-forward.log" &
  forward=$!
  for _ in $(seq 100); do
    port=$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\) .*/\1/p' "$dir/port-forward.log")
    [ -n "$port" ] && break
    sleep 0.1
  done
  [ -n "$port" ] || { echo "in-cluster: no port was forwarded to the registry within 10 s" >&2; kill "$forward"; return 1; }
  "$testbed" publish --dir "$dir/programs" --registry "127.0.0.1:$port"
  kill "$forward"
  registry=registry.kerbside-demo.svc.cluster.local:5000
}

# What is different here from a plain installation.
cluster_values() {
  cat <<EOF
adapter: {service: {type: ClusterIP}}
demoFleet: {registryHTTP: ["$registry"]}
EOF
}

# How `kubectl fleet` reaches the operator: by a port that it forwards itself.
operator=()

cluster_down() {
  hack/tools/build.sh kind
  "$(hack/tools/build.sh --path kind)/kind" delete cluster --name "$name" --kubeconfig "$KUBECONFIG"
}
