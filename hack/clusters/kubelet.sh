# A real kubelet with containerd and runc on this machine, without Docker. Sourced by hack/in-cluster.sh; needs root.
#
# Everything runs in namespaces of its own (network, mounts, processes), held by one process: when that ends, every process, mount and
# address of the cluster is gone, and no packet ever left. Pods are in the node's network: there is no Service network and no DNS.
address=10.99.0.1
node=real-1
namespaces=$dir/namespaces.pid
# Number and start of the process that holds them.
holder=$dir/holder
containerd=$(hack/tools/build.sh --path containerd)
testing=$dir/testbed
where=$dir/node
export KUBECONFIG=$testing/kubeconfig

# Runs a command where the cluster is reached.
on() {
  # Entering a mount namespace forgets the working directory.
  nsenter --target "$(cat "$namespaces")" --net --mount --pid -- bash -c 'cd "$0" && exec "$@"' "$PWD" "$@"
}

cluster_check() {
  if [ "$(id -u)" != 0 ] || ! unshare --net --mount true 2>/dev/null; then
    skipped="a real kubelet node needs root and the right to make namespaces"
  fi
}

cluster_up() {
  hack/tools/build.sh etcd kubernetes registry containerd cni
  cni=$(hack/tools/build.sh --path cni)
  runc=$(hack/tools/runc.sh)
  mkdir -p "$where"
  hold_namespaces
  # The node is called by its address: there is nobody to resolve a name.
  on "$testbed" up --dir "$testing" --control-plane-only --api-server-arg=--kubelet-preferred-address-types=InternalIP
  start_containerd
  start_kubelet
  # The chart's claim finds this volume: there is nobody to make one for it.
  install -d -o 65532 -g 65532 "$where/store"
  on kubectl apply -f - <<EOF
apiVersion: v1
kind: PersistentVolume
metadata: {name: results}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: $where/store}
EOF
}

# started PID: when the process started, in the kernel's ticks; fails if there is none, or only its exit code.
started() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The name, in parentheses, may hold anything.
  read -ra stat <<<"${stat##*) }"
  [ "${stat[0]}" != Z ] && echo "${stat[19]}"
}

# Whether the process that was put down as holder is there. Its number alone may be somebody else's by now.
holds() {
  local pid since
  [ -s "$holder" ] && read -r pid since <"$holder" && [ -n "$since" ] && [ "$(started "$pid")" = "$since" ]
}

hold_namespaces() {
  local pid
  # Folders that kubelet, the CNI plugins and runc write to whatever they are told; inside they are empty and go with the namespace.
  for folder in /var/lib/kubelet /var/lib/cni; do
    [ -d "$folder" ] || { mkdir -p "$folder" && echo "$folder" >>"$dir/folders"; }
  done
  # The first process in the namespace is everybody's parent in the end, and takes leave of each: bash does.
  unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private bash -c '
    set -eu
    for folder in /run /var/log /var/lib/kubelet /var/lib/cni; do mount -t tmpfs tmpfs "$folder"; done
    ip link set lo up
    ip address add "$1/32" dev lo
    # The mark appears in one step.
    echo ready >"$2.new" && mv "$2.new" "$2"
    trap : TERM
    while :; do sleep 3600 & wait; done' bash "$address" "$dir/held" >"$dir/namespaces.log" 2>&1 &
  pid=$!
  echo "$pid $(started "$pid")" >"$holder"
  until [ -e "$dir/held" ]; do
    holds || { echo "in-cluster: failed to make namespaces:" >&2; cat "$dir/namespaces.log" >&2; exit 1; }
    sleep 0.1
  done
  # The process inside, as it is called out here.
  tr -d ' ' <"/proc/$pid/task/$pid/children" >"$namespaces"
}

start_containerd() {
  mkdir -p "$where/cni"
  # The bridge is for Pods with a network of their own, such as the DaemonSet's.
  cat >"$where/cni/10-bridge.conflist" <<EOF
{"cniVersion": "1.0.0", "name": "kerbside", "plugins": [
  {"type": "bridge", "bridge": "kerbside0", "isGateway": true, "ipam":
    {"type": "host-local", "dataDir": "$where/ipam", "ranges": [[{"subnet": "10.98.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
EOF
  # Without restrict_oom_score_adj runc cannot start a sandbox where the machine itself is confined.
  cat >"$where/containerd.toml" <<EOF
version = 3
root = "$where/containerd"
state = "/run/node-containerd"
[grpc]
address = "/run/node.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "localhost/kerbside/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["$cni"]
conf_dir = "$where/cni"
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "$runc/runc"
SystemdCgroup = false
EOF
  # containerd looks for its shim on the PATH.
  PATH=$containerd:$runc:$PATH on "$containerd/containerd" --config "$where/containerd.toml" >"$dir/containerd.log" 2>&1 &
  wait_for 30 "containerd" ctr version
  hack/images/build.sh --out "$dir/images" --tag 1 pause
  ctr images import "$dir/images/pause.tar"
}

ctr() { on "$containerd/ctr" --address /run/node.sock --namespace k8s.io "$@" 2>>"$dir/ctr.log"; }

start_kubelet() {
  : >"$where/resolv.conf"
  # Cgroups are runc's alone: the test machines have the first version of them, and nobody competes for the node.
  cat >"$where/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $testing/pki/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///run/node.sock
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
resolvConf: $where/resolv.conf
podLogsDir: $where/pods
evictionHard: {memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
EOF
  # As the administrator: the testbed's authority signs nothing after its start, and what is tested is not the node's own rights.
  on bash -c 'echo $$ >"$0"; exec kubelet "$@"' "$where/kubelet.pid" --kubeconfig="$KUBECONFIG" --config="$where/kubelet.yaml" \
    --root-dir=/var/lib/kubelet --cert-dir="$where/pki" --hostname-override="$node" --node-ip="$address" >"$dir/kubelet.log" 2>&1 &
  wait_for 60 "the kubelet's Node" on kubectl get node "$node"
  on kubectl wait "node/$node" --for=condition=Ready --timeout=60s
}

cluster_load() {
  for archive in "$@"; do
    ctr images import "$archive"
  done
}

# Pushes the examples' programs; cars then reach them at $registry.
cluster_publish() {
  registry=$(sed -n 's/.*"registry": *"\([^"]*\)".*/\1/p' "$testing/testbed.json")
  on "$testbed" publish --dir "$dir/programs" --registry "$registry"
}

# What is different here from a plain installation.
cluster_values() {
  local port
  port=$(on kubectl config view --minify -o 'jsonpath={.clusters[0].cluster.server}')
  port=${port##*:}
  cat <<EOF
hostNetwork: true
apiServer: {host: 127.0.0.1, port: "$port"}
adapter: {kubeletPort: 10350, linkNames: [127.0.0.1], service: {type: ClusterIP}}
demoFleet: {link: "https://127.0.0.1:7443", registryHTTP: ["$registry"]}
EOF
}

# How `kubectl fleet` reaches the operator: by a port that it forwards itself.
operator=()

# Also after a run that was killed: then this shell started nothing, and what is on record may be gone.
cluster_down() {
  [ -d "$where" ] || return 0
  local task pid since
  # Nothing is entered and nothing signalled but what is known to be ours.
  if holds; then
    # Containers end as containers, so that runc takes its cgroups away; the rest goes with the namespaces.
    if [ -s "$namespaces" ]; then
      [ -e "$where/kubelet.pid" ] && on kill "$(cat "$where/kubelet.pid")" || true
      for task in $(ctr tasks ls -q); do
        ctr tasks rm --force "$task" || true
      done
      [ -d "$testing" ] && on "$testbed" down --dir "$testing" || true
    fi
    read -r pid since <"$holder"
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
      holds || break
      sleep 0.1
    done
    ! holds || { echo "in-cluster: process $pid, which holds the namespaces of an earlier run, does not end" >&2; return 1; }
  fi
  rm -f "$namespaces" "$holder" "$dir/held"
  find /sys/fs/cgroup -depth -type d -path '*/k8s.io*' -exec rmdir {} + 2>/dev/null || true
  if [ -e "$dir/folders" ]; then
    xargs rmdir <"$dir/folders" 2>/dev/null || true
  fi
  rm -rf "$where"
}
