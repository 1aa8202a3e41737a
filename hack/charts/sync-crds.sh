#!/usr/bin/env bash
# Makes the templates of the chart kerbside-crds from crds/.
#
#   hack/charts/sync-crds.sh          write them
#   hack/charts/sync-crds.sh --check  fail if they are not what crds/ says
#
# They are templates, not Helm's crds/ folder, because Helm installs that once and never upgrades it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=charts/kerbside-crds/templates

shopt -s nullglob
sources=(crds/*.yaml)
[ ${#sources[@]} -gt 0 ] || { echo "sync-crds: crds/ is empty; run 'make crds'" >&2; exit 2; }

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
for source in "${sources[@]}"; do
  # Two braces in a description would be an instruction to Helm.
  {
    echo "# Made from $source by hack/charts/sync-crds.sh; do not edit."
    sed 's/{{/{{ "{{" }}/g' "$source"
  } >"$fresh/$(basename "$source")"
done

if [ "${1:-}" = --check ]; then
  if ! diff -rq "$fresh" "$target" >/dev/null 2>&1; then
    echo "sync-crds: $target is not what crds/ says; run 'make crds'" >&2
    diff -ru "$target" "$fresh" 2>&1 | head -20 >&2 || true
    exit 1
  fi
  echo "sync-crds: ${#sources[@]} definitions, as in crds/"
  exit 0
fi
mkdir -p "$target"
find "$target" -name '*.yaml' -delete
cp "$fresh"/*.yaml "$target/"
