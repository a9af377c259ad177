"""Runs the kernels of `cuda/` on tensors on a GPU, on PyTorch's current stream.

They are compiled once by NVRTC for the GPU at hand and kept by content, in `LASPC_CACHE` or
`~/.cache/laspc`. A launch allocates from PyTorch's own memory, never waits for the GPU and copies nothing
back, so that calls can be captured in CUDA graphs; the first call on a device, which compiles, cannot.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import hashlib
import importlib.util
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import AbstractSet, Any, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from .kept import kept
from .segments import Cut, Work, columns_of, cut_segments, kept_shape, segment_length, summaries_of
from .signature import (
    CallSizes,
    Form,
    Signature,
    Spec,
    is_step,
    key_of,
    may_be_absent,
    shape_of,
    share_shape,
    spec_of,
    sum_shares,
)

_MOST_DYNAMIC_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_SHARED_BYTES_OF_A_BLOCK = 97  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
_MAP_WORDS = 16  # of 8 bytes: a CUtensorMap


class Kernel(NamedTuple):
    """A loaded kernel and what the manifest says of it."""

    function: ctypes.c_void_p
    spec: Any
    written: frozenset[str]
    """The names of what it writes."""
    reads_maps: bool
    """Does it copy tiles by the GPU's copy engine, as `maps` of the manifest say? From Hopper on."""


class Loaded(NamedTuple):
    """The kernels of a form on a device, in order, and the context that they belong to."""

    kernels: Sequence[Kernel]
    context: ctypes.c_void_p


class Kernels:
    """The kernels of a package, per device and form loaded when they are first needed."""

    def __init__(self, signature: Signature, folder: Path) -> None:
        self._signature = signature
        self._folder = folder
        self._read = _read_by_segments(signature)
        self._loaded: dict[tuple[int, str], Loaded] = {}
        self._lock = threading.Lock()

    def run(
        self,
        form: Form,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
    ) -> dict[str, Tensor]:
        """The outputs of a form and what it keeps: see `operators.Implementation`."""
        values = {**known}
        if sizes.segment == 0:
            values |= self._run_whole(form, values, cu_seqlens, sizes)
        else:
            device = next(iter(values.values())).device
            cuts = cut_segments(sizes, cu_seqlens, sizes.segment, device)
            is_kept = all(key_of(spec) in values for spec in self._signature.kept)
            for launch in self._signature.segments[form.name]:
                if not (is_kept and "again" in launch):
                    self.launch_segments(launch, values, cuts)
        found = {spec.name: values[spec.name].reshape(shape_of(spec, sizes)) for spec in form.outputs}
        if form.name != "forward" or is_step(sizes):
            return found
        kept = [spec for spec in self._signature.kept if key_of(spec) in values]
        return found | {
            key_of(spec): values[key_of(spec)].reshape(kept_shape(spec, sizes)) for spec in kept
        }

    def intra(
        self, known: Mapping[str, Tensor], cu_seqlens: Optional[Tensor], sizes: CallSizes
    ) -> dict[str, Tensor]:
        """What chunks give of inputs alone, which several forms take: see `operators.Implementation`."""
        return self._run_whole(_without_states(self._signature.forms["forward"]), known, cu_seqlens, sizes)

    def length(self, form_name: str, sizes: CallSizes, device: torch.device) -> int:
        """Tokens of the segments that a form is computed by: see `operators.Implementation`."""
        launches = self._signature.segments.get(form_name)
        if not launches:
            return 0
        columns = columns_of(self._signature.cuda[form_name]["kernels"])
        work = Work(_processors_of(device.index or 0), columns, summaries_of(launches))
        return segment_length(sizes, work)

    def launch_segments(self, launch: Any, known: dict[str, Tensor], cuts: dict[str, Cut]) -> None:
        """Runs one of the launches that stand for a form by segments, from and into what is known by name."""
        own, renamed = self._signature.forms[launch["form"]], launch["args"]
        unwanted = {x.name for x in own.outputs if renamed.get(x.name, x.name) not in self._read}
        sizes, cu_seqlens = cuts[launch["over"]]
        if launch.get("part") == "intra":
            own = _without_states(own)
        given = dict(known)
        for spec in own.inputs:
            name = renamed.get(spec.name, spec.name)
            if name in known or name != spec.name or not may_be_absent(spec):
                given[spec.name] = known[name].reshape(shape_of(spec, sizes))
        for name, x in self._run_whole(own, given, cu_seqlens, sizes, unwanted).items():
            known[renamed.get(name, name)] = x

    def _run_whole(
        self,
        form: Form,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
        unwanted: AbstractSet[str] = frozenset(),
    ) -> dict[str, Tensor]:
        """Outputs of a form but those that nobody wants, and intra-chunk values where they are not known."""
        device = next(iter(known.values())).device
        code = self._signature.cuda[self._code_of(form, sizes)]
        with torch.cuda.device(device):
            loaded = self._load(code, device.index)
            inputs = [spec for spec in form.inputs if spec.name in known or not may_be_absent(spec)]
            buffers = {spec.name: _aligned(known[spec.name]) for spec in inputs}
            if cu_seqlens is not None:
                buffers["cu_seqlens"] = _aligned(cu_seqlens.to(torch.int32))

            made: dict[str, Tensor] = {}

            def new(spec: Spec, shape: tuple[int, ...]) -> Tensor:
                made[spec.name] = torch.empty(shape, dtype=spec.dtype, device=device)
                return made[spec.name]

            wanted = [spec for spec in form.outputs if spec.name not in unwanted]
            shares = [new(spec, share_shape(spec, _of_columns(code, spec, sizes))) for spec in wanted]
            workspaces = [spec_of(work) for work in code["workspaces"]]
            given = {work.name for work in workspaces if work.intra and key_of(work) in known}
            for kernel in loaded.kernels:
                # It runs for what is not known, and writes all that it writes anew.
                if not kernel.written <= given:
                    given -= kernel.written
            intra: dict[str, Tensor] = {}
            for work in workspaces:
                shape = shape_of(work, _of_columns(code, work, sizes))
                if work.name in given:
                    buffers[work.name] = known[key_of(work)].reshape(shape)
                elif work.intra:
                    intra[key_of(work)] = new(work, shape)
                elif form.outputs:
                    new(work, shape)
            buffers |= made
            # A thread that has only allocated so far, as autograd's may, has no context yet.
            _call("cuCtxSetCurrent", loaded.context)
            stream = torch.cuda.current_stream(device).cuda_stream
            # Without a buffer for it, a kernel leaves out a state that nobody wants.
            to_write = made.keys() | unwanted
            for kernel in loaded.kernels:
                if kernel.written <= to_write:
                    _launch(kernel, buffers, sizes, stream)
            outputs = {spec.name: sum_shares(spec, x, sizes) for spec, x in zip(wanted, shares)}
            return {**intra, **outputs}

    def _code_of(self, form: Form, sizes: CallSizes) -> str:
        """A single token goes to the kernels of a decode step, which have no chunks to fill."""
        steps = form.name == "forward" and is_step(sizes) and "step" in self._signature.cuda
        return "step" if steps else form.name

    def _load(self, code: Any, device: int) -> Loaded:
        key = (device, code["form"])
        with self._lock:
            if key not in self._loaded:
                gpu, context = ctypes.c_int(), ctypes.c_void_p()
                _call("cuInit", 0)
                _call("cuDeviceGet", ctypes.byref(gpu), device)
                # The context that PyTorch uses too; it lives as long as the process.
                _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), gpu)
                _call("cuCtxSetCurrent", context)
                major, minor = torch.cuda.get_device_capability(device)
                specs = code["kernels"]
                sources = [(self._folder / x["file"]).read_text(encoding="utf-8") for x in specs]
                with ThreadPoolExecutor() as pool:
                    images = pool.map(lambda text: _image_of(text, major * 10 + minor), sources)
                    kernels = [
                        _load_kernel(x, image, gpu, major >= 9) for x, image in zip(specs, images)
                    ]
                self._loaded[key] = Loaded(kernels, context)
            return self._loaded[key]


@torch.compiler.assume_constant_result
def _processors_of(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _read_by_segments(signature: Signature) -> frozenset[str]:
    """What of the launches that stand for forms others of them take, or is the forms' own."""
    names = {spec.name for form in signature.segments for spec in signature.forms[form].outputs}
    for launch in (launch for launches in signature.segments.values() for launch in launches):
        inputs = signature.forms[launch["form"]].inputs
        names |= {launch["args"].get(spec.name, spec.name) for spec in inputs}
    return frozenset(names)


def _of_columns(code: Any, spec: Spec, sizes: CallSizes) -> CallSizes:
    """The sizes by which a buffer is written: kernels that compute a head in blocks of columns write a share for each."""
    shares = code.get("shares", {}).get(spec.name, 1)
    return sizes if shares == 1 else sizes._replace(H=sizes.H * shares, heads={})


def _without_states(form: Form) -> Form:
    """Of a form those kernels alone that write what chunks give of inputs."""
    return Form(form.name, tuple(spec for spec in form.inputs if spec.per != "state"), ())


def _aligned(x: Tensor) -> Tensor:
    """The tensor where kernels read pieces of 16 bytes: in order, and from a whole piece on."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


# --- launching --------------------------------------------------------------------------------------


def _launch(kernel: Kernel, buffers: dict[str, Tensor], sizes: CallSizes, stream: int) -> None:
    spec = kernel.spec
    blocks, axes = 1, spec["grid"]
    chunk = spec.get("packedChunk")
    if chunk and sizes.packed:
        # Points over tokens are the chunks of all sequences, each with one more than fill it whole.
        blocks = sizes.H * (sizes.T // chunk + sizes.B)
        axes = [axis for axis in axes[1:] if "T" not in axis["of"]]
    for axis in axes:
        extent = 1
        for factor in axis["of"]:
            extent *= _scalar(factor, sizes) if isinstance(factor, str) else factor
        blocks *= -(-extent // axis["by"])
    if blocks == 0:
        return
    if max(blocks, sizes.T_total) > 0x7FFFFFFF:
        raise ValueError(
            f"{spec['entry']}: {blocks} blocks, {sizes.T_total} tokens: too many for a launch"
        )
    pointers = (_pointer(buffers.get(buffer["name"])) for buffer in spec["buffers"])
    maps = (
        _map(buffers[x["buffer"]], x["rows"], kernel.reads_maps) for x in spec.get("maps", ())
    )
    scalars = (ctypes.c_int(_scalar(name, sizes)) for name in spec["scalars"])
    arguments = [*pointers, *maps, *scalars]
    addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
    shared = spec["sharedBytes"] if spec.get("dynamicShared") else 0
    threads = spec["threads"]
    _call(
        "cuLaunchKernel", kernel.function, blocks, 1, 1, threads, 1, 1,
        shared, ctypes.c_void_p(stream), addresses, None,
    )


def _scalar(name: str, sizes: CallSizes) -> int:
    """A run-time integer by the name kernels know it by; `H_q` is the number of heads of `q`."""
    if name == "packed":
        return int(sizes.packed)
    if name.startswith("H_"):
        return sizes.heads.get(name[2:], sizes.H)
    return int(getattr(sizes, name))


def _pointer(tensor: Optional[Tensor]) -> ctypes.c_void_p:
    """Where a tensor's numbers lie; nothing where kernels do not look."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _map(tensor: Tensor, rows: int, is_read: bool) -> ctypes.Array[ctypes.c_uint64]:
    """What the copy engine is told of a tensor; zeros where kernels do not look."""
    if not is_read or tensor.numel() == 0:
        return _NO_MAP
    return _encoded_map(tensor.data_ptr(), tensor.shape, rows)


# Encoding costs microseconds, and PyTorch's allocator gives out the same addresses again and again.
@functools.lru_cache(maxsize=4096)
def _encoded_map(
    address: int, shape: tuple[int, ...], rows: int
) -> ctypes.Array[ctypes.c_uint64]:
    """A map of tiles of 64 columns in a 16-bit tensor: [B, T, heads, cols], or [B, chunks, H, rows, cols]."""
    cols = shape[-1]
    if len(shape) == 4:
        outer, length, heads, _ = shape
        dims = (cols, length, heads, outer)
        steps = (heads * cols, cols, length * heads * cols)
    else:
        outer, chunks, heads, length, _ = shape
        dims = (cols, length, heads, outer * chunks)
        steps = (cols, length * cols, heads * length * cols)
    encoded = _aligned_words(_MAP_WORDS)
    _call(
        "cuTensorMapEncodeTiled", encoded,
        1,  # CU_TENSOR_MAP_DATA_TYPE_UINT16
        4, ctypes.c_void_p(address),
        (ctypes.c_uint64 * 4)(*dims),
        (ctypes.c_uint64 * 3)(*(2 * step for step in steps)),
        (ctypes.c_uint32 * 4)(64, rows, 1, 1),
        (ctypes.c_uint32 * 4)(1, 1, 1, 1),
        0,  # CU_TENSOR_MAP_INTERLEAVE_NONE
        3,  # CU_TENSOR_MAP_SWIZZLE_128B
        3,  # CU_TENSOR_MAP_L2_PROMOTION_L2_256B
        0,  # CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE: zeros
    )
    return encoded


def _aligned_words(count: int) -> ctypes.Array[ctypes.c_uint64]:
    """Zeros from a whole 64 bytes on, where the driver wants maps."""
    memory = (ctypes.c_uint64 * (count + 7))()
    offset = -ctypes.addressof(memory) % 64
    return (ctypes.c_uint64 * count).from_buffer(memory, offset)


_NO_MAP = _aligned_words(_MAP_WORDS)


def _load_kernel(spec: Any, image: bytes, gpu: ctypes.c_int, reads_maps: bool) -> Kernel:
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _call("cuModuleLoadData", ctypes.byref(module), image)
    _call("cuModuleGetFunction", ctypes.byref(function), module, spec["entry"].encode())
    if spec.get("dynamicShared"):
        most = ctypes.c_int()
        _call("cuDeviceGetAttribute", ctypes.byref(most), _SHARED_BYTES_OF_A_BLOCK, gpu)
        needed = spec["sharedBytes"]
        if needed > most.value:
            raise RuntimeError(
                f"{spec['entry']} needs {needed} bytes of shared memory a block, "
                f"more than this GPU's {most.value}: compile with --arch"
            )
        _call("cuFuncSetAttribute", function, _MOST_DYNAMIC_SHARED_BYTES, needed)
    written = frozenset(x["name"] for x in spec["buffers"] if x["access"] == "write")
    return Kernel(function, spec, written, reads_maps)


_driver: Optional[ctypes.CDLL] = None


def _call(name: str, *arguments: Any) -> None:
    """Calls the driver. Raises RuntimeError with its own words."""
    global _driver
    if _driver is None:
        _driver = ctypes.CDLL("libcuda.so.1")
    status = getattr(_driver, name)(*arguments)
    if status == 0:
        return
    text = ctypes.c_char_p()
    _driver.cuGetErrorString(status, ctypes.byref(text))
    raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()} ({status})")


# --- compiling --------------------------------------------------------------------------------------


def _image_of(source: str, capability: int) -> bytes:
    """A kernel's file for a compute capability (90 is sm_90): machine code, or PTX for the driver to finish
    where the GPU is newer than NVRTC.
    """
    compiler = _compiler()
    major, minor = ctypes.c_int(), ctypes.c_int()
    compiler.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    known = [other for other in _capabilities(compiler) if other <= capability]
    if not known:
        raise RuntimeError(f"NVRTC {major.value}.{minor.value} makes no code for sm_{capability}")
    if capability in known:
        # What Hopper alone has is in its own "a" variant.
        kind, target = "CUBIN", f"sm_{capability}{'a' if capability == 90 else ''}"
    else:
        kind, target = "PTX", f"compute_{max(known)}"
    options = [f"--gpu-architecture={target}".encode(), b"--std=c++17"]
    facts = f"{major.value}.{minor.value} {options} {source}".encode()
    name = f"{hashlib.sha256(facts).hexdigest()}.{kind.lower()}"
    return kept(name, lambda: _compiled(compiler, source, options, kind))


def _capabilities(compiler: ctypes.CDLL) -> list[int]:
    """What NVRTC makes machine code for: 90 is sm_90."""
    count = ctypes.c_int()
    compiler.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    listed = (ctypes.c_int * count.value)()
    compiler.nvrtcGetSupportedArchs(listed)
    return list(listed)


def _compiled(
    compiler: ctypes.CDLL, source: str, options: Sequence[bytes], kind: str
) -> bytes:
    program = ctypes.c_void_p()
    compiler.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        listed = (ctypes.c_char_p * len(options))(*options)
        failed = compiler.nvrtcCompileProgram(program, len(options), listed)
        if failed:
            log = _result(compiler, "ProgramLog", program).decode(errors="replace").rstrip("\0")
            raise RuntimeError(f"NVRTC does not compile a kernel ({failed}): {log}")
        return _result(compiler, kind, program)
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


def _result(compiler: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(compiler, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(compiler, f"nvrtcGet{what}")(program, text)
    return text.raw


_nvrtc: Optional[ctypes.CDLL] = None


def _compiler() -> ctypes.CDLL:
    """NVRTC: the one named by LASPC_NVRTC, PyTorch's own, or the system's."""
    global _nvrtc
    if _nvrtc is None:
        for candidate in _nvrtc_candidates():
            try:
                _nvrtc = ctypes.CDLL(candidate)
                break
            except OSError:
                continue
        else:
            raise RuntimeError("NVRTC is not found; name its library in LASPC_NVRTC")
    return _nvrtc


def _nvrtc_candidates() -> list[str]:
    named = os.environ.get("LASPC_NVRTC")
    if named:
        return [named]
    version = (torch.version.cuda or "").split(".")[0]
    names = [f"libnvrtc.so.{version}"] if version else []
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    bundled = [
        path for folder in folders for path in glob.glob(f"{folder}/**/libnvrtc.so.*", recursive=True)
    ]
    own = sorted(path for path in bundled if path.split(".so.")[1].isdigit())
    return [*own, *names, "libnvrtc.so", "/usr/local/cuda/lib64/libnvrtc.so"]
