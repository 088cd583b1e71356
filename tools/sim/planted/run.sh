#!/bin/sh
# Plants each bug of this folder in a copy of the tree, and expects the simulator to find it.
# Usage: tools/sim/planted/run.sh [seconds per bug, default 60] [bug…]
set -eu

seconds=${1:-60}
[ $# -eq 0 ] || shift
folder=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$folder/../../.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
# Built beside the tree's own targets, so that a second run is quick.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}/planted"
# Each bug is built for a minute at most of running: soon is better than fast.
export CARGO_PROFILE_SIM_LTO=off CARGO_PROFILE_SIM_CODEGEN_UNITS=16

[ $# -gt 0 ] || set -- "$folder"/*.patch
missed=0
for patch; do
    bug=$(basename "$patch" .patch)
    rm -rf "$copy/tree"
    mkdir "$copy/tree"
    (cd "$root" && git ls-files -z --cached --others --exclude-standard | xargs -0 tar cf -) | tar xf - -C "$copy/tree"
    # A file older than the last build would not be built again.
    (cd "$copy/tree" && patch -p1 -s -i "$folder/$bug.patch" && find engine net wal -name '*.rs' -exec touch {} +)
    (cd "$copy/tree" && cargo build --quiet --profile sim -p sim)
    began=$(date +%s)
    if found=$("$CARGO_TARGET_DIR/sim/sim" --quiet --seconds "$seconds"); then
        missed=$((missed + 1))
        echo "MISSED  $bug: nothing broke in $seconds s"
    else
        echo "found   $bug in $(($(date +%s) - began)) s"
        echo "$found" | sed -n 's/^seed /        seed /p' | cut -c1-200
    fi
done
[ "$missed" -eq 0 ]
