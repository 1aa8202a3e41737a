#!/usr/bin/env bash
# Prints the Python that has Eclipse KUKSA's own client, in an environment in the cache. Nothing is installed elsewhere.
#
#   hack/tools/kuksa.sh
#
# Needs Python 3.11 or newer. On Debian its module venv is a package of its own; root gets it here by apt-get.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cache=${KERBSIDE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kerbside}
dir=$cache/tools/kuksa-$(sha256sum <kuksa/requirements.txt | cut -c1-16)

refuse() { echo "hack/tools: there is no Eclipse KUKSA client: $1" >&2; exit 1; }

# make: a new environment; one that was interrupted is begun anew. Nothing is compiled.
make() {
  rm -rf "$dir/venv"
  python3 -m venv "$dir/venv" &&
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: -r kuksa/requirements.txt
}

if [ ! -e "$dir/.complete" ]; then
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || refuse "it needs python3, 3.11 or newer"
  mkdir -p "$dir"
  exec 9>"$dir/lock"
  flock 9
  if [ ! -e "$dir/.complete" ]; then
    if ! python3 -c 'import ensurepip' 2>/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
      export DEBIAN_FRONTEND=noninteractive
      { apt-get install -yq python3-venv || { apt-get update -q && apt-get install -yq python3-venv; }; } >"$dir/log" 2>&1 || true
    fi
    make >>"$dir/log" 2>&1 || { tail -5 "$dir/log" >&2; refuse "python3-venv and PyPI are needed"; }
    "$dir/venv/bin/python" -c 'import kuksa_client.grpc, kuksa.val.v2.val_pb2_grpc' || refuse "it does not run here"
    touch "$dir/.complete"
  fi
fi
echo "$dir/venv/bin/python"
