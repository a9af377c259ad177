"""A plugin for pytest: a package's kernels run on the CPU, by the driver and compiler in SOFTWARE_CUDA."""

import contextlib
import ctypes
import os
import sys
from types import SimpleNamespace

import torch

LIBRARY = os.environ["LASPC_NVRTC"] = os.environ["SOFTWARE_CUDA"]

torch.cuda.device = lambda device: contextlib.nullcontext()
torch.cuda.current_stream = lambda device: SimpleNamespace(cuda_stream=2)
torch.cuda.get_device_capability = lambda device: (8, 0)
torch.cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=1)
# What nobody wrote is NaN.
torch.use_deterministic_algorithms(True, warn_only=True)


def pytest_collection_modifyitems():
    """The package is imported by now."""
    package = sys.modules["package_under_test"]
    package.kernels._driver = ctypes.CDLL(LIBRARY)
    implementations = package.binding.OPERATORS.implementations
    implementations["CPU"] = implementations["CUDA"]
    if "SEGMENT" in os.environ:
        package.segments.set_segment_length(int(os.environ["SEGMENT"]))
