#!/usr/bin/env bash
# Checks that dependencies point inward: core <- api, link <- k8s <- programs, and that core stays pure.
#
#   hack/check-deps.sh
#
# Reads Cargo.lock through `cargo tree`; compiles nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo=${CARGO:-cargo}
failed=0

# What each crate of the workspace may use of the others. Programs never use each other: they meet through Kubernetes objects, the
# link and the store. The testbed drives everything, so it may use any library. The simulator is many cars: it plays the agent's own code.
declare -A allowed=(
  [core]=""
  [databroker]=""
  [spdy]=""
  [api]="core"
  [link]="core"
  [k8s]="core api link"
  [operator]="core api link k8s"
  [virtual-kubelet]="core api link k8s spdy"
  [vehicle-agent]="core link spdy"
  [kubectl-fleet]="core api link k8s"
  [simulator]="core link vehicle-agent"
  [telemetry-gateway]="core api link k8s"
  [testbed]="core databroker api link k8s kubectl-fleet simulator telemetry-gateway vehicle-agent"
)
for crate in */Cargo.toml; do
  crate=${crate%/Cargo.toml}
  if [ -z "${allowed[$crate]+known}" ]; then
    echo "hack/check-deps: the crate '$crate' is not in this script's table: say there what it may use" >&2
    failed=1
    continue
  fi
  package=$(sed -n 's/^name = "\(.*\)"$/\1/p' "$crate/Cargo.toml" | head -1)
  used=$("$cargo" tree --locked -p "$package" -e normal,build --depth 1 --prefix none --format '{p}')
  for other in $(awk '$1 ~ /^(kerbside-|kubectl-fleet$)/ {sub(/^kerbside-/, "", $1); print $1}' <<<"$used"); do
    [ "$other" = "$crate" ] && continue
    case " ${allowed[$crate]} " in
    *" $other "*) ;;
    *)
      echo "hack/check-deps: '$crate' uses '$other', which is not further in" >&2
      failed=1
      ;;
    esac
  done
done

# Everything that core may have below it, whole tree: parsing, time as a value, errors. No runtime, no sockets, no Kubernetes.
core_allowed=$(cat hack/core-dependencies.txt | sed 's/#.*//' | tr -s ' \n' ' ')
for crate in $("$cargo" tree --locked -p kerbside-core -e normal,build --prefix none --format '{p}' | awk '{print $1}' | sort -u); do
  case " kerbside-core $core_allowed " in
  *" $crate "*) ;;
  *)
    echo "hack/check-deps: core now depends on '$crate'; if it is pure, add it to hack/core-dependencies.txt with a reason" >&2
    failed=1
    ;;
  esac
done
[ "$failed" = 0 ] && echo "check-deps: $(ls -d */Cargo.toml | wc -l) crates point inward"
exit "$failed"
