#!/usr/bin/env bash
# Installs the pinned cargo subcommands that `make test` needs, once, into the cache, and prints the folder with them.
#
#   hack/cargo-tools.sh NAME...      cargo-nextest, cargo-deny
#
# Nothing is installed into ~/.cargo/bin: another project's versions stay as they are.
set -euo pipefail
cache=${KERBSIDE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kerbside}

# The newest releases that build with the compiler in rust-toolchain.toml.
declare -A versions=([cargo-nextest]=0.9.151 [cargo-deny]=0.20.2)

root=$cache/cargo-tools
mkdir -p "$root"
for name in "$@"; do
  version=${versions[$name]:?hack/cargo-tools.sh: there is no pinned version of $name}
  mark=$root/.$name-$version
  exec 9>"$root/lock"
  flock 9
  if [ ! -e "$mark" ]; then
    started=$SECONDS
    echo "hack/cargo-tools: building $name $version" >&2
    # Without optimisation: they run for seconds and would compile for minutes. A target folder of their own, thrown away.
    CARGO_TARGET_DIR=$root/target CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_INCREMENTAL=false \
      cargo install --quiet --locked --debug --no-track --force --root "$root" "$name@$version" >&2
    rm -rf "$root/target"
    touch "$mark"
    echo "hack/cargo-tools: $name built in $((SECONDS - started)) s" >&2
  fi
  flock -u 9
done
echo "$root/bin"
