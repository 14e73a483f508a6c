# shellcheck shell=bash
# Builds the demo set's tools: copies the seed and patches its programs to run from the output.
# Run by the seed's bash, through the seed's dynamic loader. Environment: seed, out.
# shellcheck disable=SC2154
set -euo pipefail

run() {
    "$seed/ld.so" --library-path "$seed/lib" "$seed/bin/$1" "${@:2}"
}

run mkdir "$out"
run cp -R "$seed/." "$out/"
run chmod -R u+w "$out"
for program in "$out"/bin/*; do
    # A script has a loader no more than a link has.
    [ ! -L "$program" ] || continue
    run patchelf --set-interpreter "$out/ld.so" --force-rpath --set-rpath "$out/lib" "$program"
done
