#!/usr/bin/env bash
# Installs what laspc needs on Debian or Ubuntu with Node 20 or later. Safe to run again.
#   --torch  also PyTorch (900 MB and more), with which the tests run generated packages; in CI always
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

with_torch=""
if [ "${1:-}" = --torch ] || [ -n "${CI:-}" ]; then with_torch=yes; fi

major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
if [ "$major" -lt 20 ]; then
  say "Node 20 or later is needed; found ${major/#0/none}"
  exit 1
fi

# System packages: only with the right to install them, and only those that are missing.
as_root=""
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="none"; fi
fi
have() { dpkg -s "$1" >/dev/null 2>&1; }
missing=()
if command -v dpkg >/dev/null; then
  for package in llvm-14 llvm-14-dev cmake g++ make zlib1g-dev python3 ${with_torch:+python3-venv} libvulkan1; do
    have "$package" || missing+=("$package")
  done
fi
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$as_root" = none ]; then
    say "not root and no passwordless sudo: not installing ${missing[*]}"
  else
    say "installing ${missing[*]}"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || say "the package lists could not be updated"
    # One by one, so that a release without LLVM 14 still gets the rest.
    for package in "${missing[@]}"; do
      $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 \
        || say "$package cannot be installed here"
    done
  fi
fi

# llvm-bindings compiles itself against Node's headers; use those of this Node where they lie beside it.
prefix=$(node -p 'require("path").resolve(process.execPath, "../..")')
for place in "$prefix" /usr/local /usr; do
  if [ -f "$place/include/node/node.h" ]; then export npm_config_nodedir="$place"; break; fi
done

# With scripts/optional-peers: what the packages leave to whoever wants the device.
say "installing npm packages (compiling llvm-bindings takes a minute or two) ..."
npm install --no-audit --no-fund --loglevel=error
if [ ! -d node_modules/llvm-bindings ]; then
  # It could not be compiled, and npm took it away again; its types still serve the type checker.
  npm install --no-save --ignore-scripts --no-audit --no-fund --loglevel=error llvm-bindings@0.4.2 || true
fi
npm run --silent build

# A Python of its own, so that nobody's packages change.
python=node_modules/.cache/laspc/python
install_torch() {
  [ -x "$python/bin/python" ] || python3 -m venv "$python" || return 1
  "$python/bin/python" -c 'import torch, pytest' 2>/dev/null && return 0
  timeout 600 "$python/bin/python" -m pip install -q --retries 1 "torch==2.13.0" pytest numpy 2>/dev/null
}
if [ -n "$with_torch" ]; then
  say "installing PyTorch into $python ..."
  if install_torch; then say "torch packages: ready to be tested"; else say "torch packages: PyTorch could not be installed; their tests will be skipped"; fi
fi

if node -e 'import("llvm-bindings").then(() => {}, () => process.exit(1))' 2>/dev/null && command -v cc >/dev/null \
  && { [ -x /usr/lib/llvm-14/bin/llc ] || command -v llc-14 >/dev/null || command -v llc >/dev/null; }; then
  say "cpu device: ready"
else
  say "cpu device: NOT available (it needs LLVM 14 and a C compiler); the reference device serves small sizes"
fi
if node scripts/software-gpu.mjs >/dev/null 2>&1 && { have libvulkan1 || ldconfig -p 2>/dev/null | grep -q libvulkan.so.1; }; then
  say "webgpu device: ready (SwiftShader where there is no GPU)"
else
  say "webgpu device: needs a GPU driver and the Vulkan loader (libvulkan1)"
fi
command -v nvidia-smi >/dev/null && say "cuda device: a driver is there" || say "cuda device: no NVIDIA driver here; CUDA code is still emitted"
