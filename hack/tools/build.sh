#!/usr/bin/env bash
# Builds the pinned control plane and tools from their Go modules, once, into a cache keyed by each group's go.mod, go.sum and own code.
#
#   hack/tools/build.sh GROUP...      build the named groups (a group is a folder beside this file)
#   hack/tools/build.sh --path GROUP  print the folder that holds a group's binaries, building nothing
#   hack/tools/build.sh --count GROUP...  print how many packages are to be compiled, building nothing
#
# Nothing is installed outside the cache, and a group whose go.sum has not changed is not built again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KERBSIDE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kerbside}

# Kubernetes reads its own version from linker flags; without them the server calls itself v0.0.0.
kubernetes_version=v1.37.2
ldflags=(-s -w)
version_flags() {
  local p=k8s.io/component-base/version
  printf -- '-X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=37 -X %s.gitTreeState=clean' \
    $p "$kubernetes_version" $p $p $p
}
flags() {
  printf '%s' "${ldflags[*]}"
  if [ "$1" = kubernetes ]; then printf ' %s' "$(version_flags)"; fi
}

# Raise when the way of building changes: flags, names of binaries.
recipe=1

# The key holds everything the binaries depend on: the modules, the group's own code if it has any, the recipe and the Go release.
group_dir() {
  local key
  key=$(shopt -s nullglob && cat "$here/$1"/{go.mod,go.sum} "$here/$1"/*.go <(echo "$recipe $kubernetes_version") <(go env GOVERSION GOARCH GOOS) | sha256sum | cut -c1-16)
  printf '%s/tools/%s-%s' "$cache" "$1" "$key"
}

build_group() {
  local group=$1 dir tmp started
  [ -f "$here/$group/go.mod" ] || { echo "hack/tools: there is no group '$group'; the groups are: $(cd "$here" && echo */ | tr -d /)" >&2; return 2; }
  dir=$(group_dir "$group")
  [ -e "$dir/.complete" ] && return 0
  started=$SECONDS
  tmp=$dir.tmp.$$
  mkdir -p "$tmp"
  # One invocation for all tools of a group, so that their packages are compiled and linked side by side.
  local -a packages
  mapfile -t packages < <(cd "$here/$group" && GOWORK=off go list -mod=readonly tool)
  echo "hack/tools: building $group: ${packages[*]}" >&2
  # -v names each package as it is compiled: that is what a progress bar counts.
  (cd "$here/$group" && CGO_ENABLED=0 GOWORK=off GOBIN=$tmp go install -v -mod=readonly -trimpath -ldflags "$(flags "$group")" "${packages[@]}")
  # `go install` names a binary after its folder, and etcd's main package lives in one called server.
  [ -e "$tmp/server" ] && mv "$tmp/server" "$tmp/etcd"
  touch "$tmp/.complete"
  rm -rf "$dir"
  mv "$tmp" "$dir"
  echo "hack/tools: $group built in $((SECONDS - started)) s" >&2
}

command -v go >/dev/null || { echo "hack/tools: 'go' is not on the PATH; install Go 1.26 or newer" >&2; exit 2; }
if [ "${1:-}" = --path ]; then
  [ -f "$here/$2/go.mod" ] || { echo "hack/tools: there is no group '$2'" >&2; exit 2; }
  group_dir "$2"
  exit 0
fi
if [ "${1:-}" = --count ]; then
  shift
  count=0
  for group in "$@"; do
    [ -e "$(group_dir "$group")/.complete" ] && continue
    count=$((count + $(cd "$here/$group" && CGO_ENABLED=0 GOWORK=off go list -mod=readonly -deps tool | wc -l)))
  done
  echo "$count"
  exit 0
fi
[ $# -gt 0 ] || set -- $(cd "$here" && echo */ | tr -d /)
mkdir -p "$cache/tools"
for group in "$@"; do
  # Two builds of one group at once would do the work twice: the second waits and finds it done.
  exec 9>"$cache/tools/$group.lock"
  flock 9
  build_group "$group"
  flock -u 9
done
