#!/usr/bin/env bash
# Builds the Python extension for 64-bit Arm and runs tests/ops with it, in a Python for Arm that QEMU emulates.
#   aarch64_python.sh BUILD_FOLDER PYTHON [pytest arguments]
# Needs Debian 12 or later with cmake, g++-aarch64-linux-gnu and qemu-user; PYTHON has nanobind and pip and is of the
# version that this Debian has. The Arm packages are unpacked into the build folder, nothing is installed.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1" && build=$(cd "$1" && pwd) python=$2
shift 2
fail() { echo "octuor: $1" >&2; exit 1; }
for tool in apt-get dpkg cmake aarch64-linux-gnu-g++ qemu-aarch64; do
  command -v "$tool" >/dev/null || fail \
    "expected the program $tool; on Debian: sudo apt install cmake g++-aarch64-linux-gnu qemu-user"
done
"$python" -c 'import nanobind, pip' 2>/dev/null || fail \
  "$python: expected nanobind and pip; $python -m pip install nanobind"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

arm=$build/arm
if [[ ! -e $arm/done ]]; then
  mkdir -p "$build/lists/partial" "$build/debs" "$arm"
  apt=(apt-get -q -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 "-oDir::State::Lists=$build/lists"
       -oDir::Cache::pkgcache= -oDir::Cache::srcpkgcache=)
  "${apt[@]}" update
  (cd "$build/debs" && "${apt[@]}" download "python$version-minimal" "libpython$version"-{minimal,stdlib,dev} \
    libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1) \
    || fail "expected Python $version for arm64 among this system's packages; use the Python of this Debian"
  for deb in "$build"/debs/*.deb; do dpkg -x "$deb" "$arm"; done
  "$python" -m pip install --quiet --target "$build/site" --only-binary :all: --python-version "$version" \
    --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 numpy pytest
  touch "$arm/done"
fi

cmake -S "$root" -B "$build/extension" -DCMAKE_TOOLCHAIN_FILE=native/tests/aarch64.cmake -DPython_EXECUTABLE="$python" \
  -DPython_INCLUDE_DIR="$arm/usr/include/python$version" -DCMAKE_CXX_FLAGS="-I$arm/usr/include"
cmake --build "$build/extension"
rm -rf "$build/site/octuor"
cp -r "$root/src/octuor" "$build/site/octuor"
rm -f "$build"/site/octuor/_native*.so
cp "$build"/extension/_native*.so "$build/site/octuor/_native.so"
cd "$root"
export PYTHONDONTWRITEBYTECODE=1 PYTHONHOME=$arm/usr PYTHONPATH=$build/site
exec qemu-aarch64 -cpu max -L "$arm" "$arm/usr/bin/python$version" -m pytest -p no:cacheprovider "${@:-tests/ops}"
