#!/usr/bin/env bash
# Makes an image of each program, as an OCI archive, from the binaries that `make build` left. No container engine is needed.
#
#   hack/images/build.sh [--registry REGISTRY] [--tag TAG] [--out DIRECTORY] [PROGRAM...]
#
# PROGRAM is a folder of the workspace; without one, all four. Two more are for tests and the demo on kind: pause, and registry (the pinned
# one of hack/tools). The archives are DIRECTORY/PROGRAM.tar (out/images); images are
# called REGISTRY/PROGRAM:TAG, by default as the chart calls them. The same binary gives the same bytes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
version=$(sed -n 's/^appVersion: *"\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' charts/kerbside/Chart.yaml)
registry=localhost/kerbside
tag=$version
out=out/images
programs=()
while [ $# -gt 0 ]; do
  case $1 in
  --registry) registry=$2; shift 2 ;;
  --tag) tag=$2; shift 2 ;;
  --out) out=$2; shift 2 ;;
  -*) echo "images: there is no option $1" >&2; exit 2 ;;
  *) programs+=("$1"); shift ;;
  esac
done
[ ${#programs[@]} -gt 0 ] || programs=(operator virtual-kubelet vehicle-agent kubectl-fleet)
bin=${KERBSIDE_BIN:-${CARGO_TARGET_DIR:-${KERBSIDE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kerbside}/target}/debug}

# Where a program's binary is.
binary_of() {
  case $1 in
  operator) echo "$bin/kerbside-operator" ;;
  virtual-kubelet) echo "$bin/kerbside-kubelet" ;;
  vehicle-agent) echo "$bin/kerbside-agent" ;;
  kubectl-fleet) echo "$bin/kubectl-fleet" ;;
  registry) echo "$(hack/tools/build.sh --path registry)/registry" ;;
  pause)
    (cd hack/images && GOWORK=off CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w -buildid=" -o "$work/built/pause" ./pause)
    echo "$work/built/pause"
    ;;
  *) echo "images: there is no program '$1'; the programs are operator, virtual-kubelet, vehicle-agent, kubectl-fleet" >&2; return 2 ;;
  esac
}

# Programs that stand beside it in its image.
beside() {
  case $1 in
  vehicle-agent) echo kerbside-guard ;;
  esac
}

# Where distributions keep the certificate authorities.
authorities=
for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
  [ -r "$file" ] && authorities=$file && break
done
[ -n "$authorities" ] || { echo "images: found no certificate authorities; install the package ca-certificates" >&2; exit 1; }

# Megabytes, compressed: what a car or a node fetches.
most=40

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd hack/images && GOWORK=off CGO_ENABLED=0 go build -mod=readonly -o "$work/images" .)

# stripped PATH: puts a binary in place for the image. Symbols are half of it and nobody reads them in a Pod; a C compiler, which building
# needs, brings strip with it.
stripped() {
  [ -x "$1" ] || { echo "images: $1 is not built; run 'make build' and 'make tools'" >&2; exit 1; }
  strip -o "$work/$(basename "$1")" "$1"
}

for program in "${programs[@]}"; do
  path=$(binary_of "$program")
  binary=$(basename "$path")
  stripped "$path"
  others=()
  for other in $(beside "$program"); do
    stripped "$bin/$other"
    others+=(-beside "$work/$other")
  done
  "$work/images" -program "$work/$binary" -name "$binary" -ref "$registry/$program:$tag" -version "$version" \
    -ca-certificates "$authorities" "${others[@]}" -out "$out/$program.tar"
  size=$(($(stat -c %s "$out/$program.tar") / 1000000))
  [ "$size" -le "$most" ] || { echo "images: $out/$program.tar has $size MB; an image is to have at most $most MB" >&2; exit 1; }
done
echo "images: ${#programs[@]} archives in $out, $(du -ch "$out"/*.tar | tail -1 | cut -f1) together"
