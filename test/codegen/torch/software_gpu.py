"""A plugin for pytest: a package's kernels run on the CPU, by the driver and compiler in SOFTWARE_CUDA.

`python -m software_gpu FOLDER` runs a package's own comparison of groups of ranks so (tests/group_ranks.py).
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing

LIBRARY = os.environ["LASPC_NVRTC"] = os.environ["SOFTWARE_CUDA"]

torch.cuda.device = lambda device: contextlib.nullcontext()
torch.cuda.current_stream = lambda device: SimpleNamespace(cuda_stream=2)
CAPABILITY = (9, 0) if "SOFTWARE_CUDA_SM90" in os.environ else (8, 0)
torch.cuda.get_device_capability = lambda device: CAPABILITY
torch.cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=1)
# What nobody wrote is NaN.
torch.use_deterministic_algorithms(True, warn_only=True)


def pytest_collection_modifyitems(items):
    """The package is imported by now."""
    package = sys.modules["package_under_test"]
    activate(package)
    if any(x.dtype != torch.float32 for x in package.binding.OPERATORS.signature.inputs):
        why = "tensor cores multiply what a mask leaves out, by zero"
        for item in items:
            if item.name.startswith("test_what_is_no_number"):
                item.add_marker(pytest.mark.skip(reason=why))


def activate(package):
    package.kernels._driver = ctypes.CDLL(LIBRARY)
    implementations = package.binding.OPERATORS.implementations
    implementations["CPU"] = implementations["CUDA"]
    if "SEGMENT" in os.environ:
        package.segments.set_segment_length(int(os.environ["SEGMENT"]))


def run_rank(rank, folder, store):
    sys.path.insert(0, f"{folder}/tests")
    import group_ranks

    activate(sys.modules["package_under_test"])
    # The segments' launches are what is to be seen here.
    package = sys.modules["package_under_test"]
    kernels, launched, entries = package.binding.KERNELS, [], []
    own, run = kernels.launch_segments, package.kernels._launch
    kernels.launch_segments = lambda launch, *rest: launched.append(launch["form"]) or own(launch, *rest)
    package.kernels._launch = lambda kernel, *rest: entries.append(kernel.spec["entry"]) or run(kernel, *rest)
    group_ranks.LENGTHS = [[70], [40, 33], [33, 0, 37]]
    if group_ranks.SIGNATURE.inputs[0].dtype != torch.float32:
        # Gradients of factors are sums over all tokens, of normalised keys zero: in 16 bits they are rounding.
        group_ranks.train = lambda rank: None
    group_ranks.run(rank, store)
    if rank == 0:
        # Forwards a summary, backwards none: the forward's segments serve both.
        print(" ".join(launched))
        print(" ".join(entries))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        arguments = (sys.argv[1], f"{temporary}/store")
        torch.multiprocessing.spawn(run_rank, arguments, nprocs=4)
