#!/usr/bin/env bash
# Prints the program that is Debian's Chromium without a screen, unpacked into the cache with the libraries that this machine
# lacks. Nothing is installed.
#
#   hack/tools/chromium.sh
#
# For the test of the owner's page, which wants a browser that people have. Its version is the distribution's newest, as it is on their phones.
set -euo pipefail
cache=${KERBSIDE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kerbside}
dir=$cache/tools/chromium
package=chromium-headless-shell

refuse() { echo "hack/tools: there is no Chromium: $1" >&2; exit 1; }

# needed: the package and what of its dependencies is not installed here. Nothing is done; no root is needed.
needed() { apt-get install -s -y --no-install-recommends "$package" | awk '/^Inst / {print $2}'; }

# fetch: all of it, as the lists of the archive have it.
fetch() {
  local -a names
  mapfile -t names < <(needed)
  [ ${#names[@]} -gt 0 ] || return 1
  apt-get download -q "${names[@]}"
}

# The machine's own is as good.
if command -v "$package" >/dev/null; then
  command -v "$package"
  exit 0
fi

if [ ! -e "$dir/.complete" ]; then
  command -v apt-get >/dev/null || refuse "there is no apt-get to get it by (the package is called $package)"
  mkdir -p "$dir"
  exec 9>"$dir/lock"
  flock 9
  if [ ! -e "$dir/.complete" ]; then
    # What an interrupted run has left.
    rm -rf "$dir"/*.deb "$dir/unpacked"
    (cd "$dir" && { fetch || { apt-get update -q && fetch; }; } && for deb in *.deb; do dpkg -x "$deb" unpacked; done && rm -f ./*.deb) >"$dir/log" 2>&1 ||
      { tail -5 "$dir/log" >&2; refuse "apt-get does not give it (the package is called $package)"; }
    program=$dir/unpacked/usr/lib/chromium/$package
    [ -x "$program" ] || refuse "Debian's package $package has no such program"
    libraries=$(find "$dir/unpacked" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
    cat >"$dir/run" <<SCRIPT
#!/bin/sh
LD_LIBRARY_PATH='$libraries' exec '$program' "\$@"
SCRIPT
    chmod +x "$dir/run"
    "$dir/run" --version >>"$dir/log" 2>&1 || { tail -5 "$dir/log" >&2; refuse "it does not run here"; }
    touch "$dir/.complete"
  fi
fi
echo "$dir/run"
