"""Puts this folder's parts together: the signature, what runs each form where, and the operators."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Optional, Sequence

from torch import Tensor

from . import formula
from .kernels import Kernels
from .operators import Operators
from .plain import Printed, run_plain
from .signature import CallSizes, Form, read_signature

FOLDER = Path(__file__).parent
SIGNATURE = read_signature(FOLDER)
_PRINTED: Mapping[str, Printed] = {"forward": formula.forward, "backward": formula.backward}


def _on_cpu(
    form: Form, tensors: Sequence[Tensor], cu_seqlens: Optional[Tensor], sizes: CallSizes
) -> tuple[Tensor, ...]:
    return run_plain(SIGNATURE.name, form, _PRINTED[form.name], tensors, cu_seqlens, sizes)


OPERATORS = Operators(SIGNATURE, {"CPU": _on_cpu, "CUDA": Kernels(SIGNATURE, FOLDER).run})
