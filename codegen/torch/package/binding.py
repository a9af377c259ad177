"""Puts this folder's parts together: the signature, what runs each form where, and the operators."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

from torch import Tensor

from . import formula
from .group import Grouped
from .kernels import Kernels
from .operators import Operators
from .parts import Parts
from .plain import Printed, run_plain
from .signature import CallSizes, Form, read_signature
from .stages import Stages

FOLDER = Path(__file__).parent
SIGNATURE = read_signature(FOLDER)


def _on_cpu(
    form: Form, tensors: Sequence[Tensor], cu_seqlens: Optional[Tensor], sizes: CallSizes
) -> tuple[Tensor, ...]:
    printed: Printed = getattr(formula, form.name)
    return run_plain(SIGNATURE.name, form, printed, tensors, cu_seqlens, sizes)


KERNELS = Kernels(SIGNATURE, FOLDER)
OPERATORS = Operators(SIGNATURE, {"CPU": _on_cpu, "CUDA": KERNELS.run})
STAGES = Stages(OPERATORS)
GROUPED = Grouped(OPERATORS, STAGES, Parts(OPERATORS, STAGES, KERNELS))
summary, fold, apply = STAGES.summary, STAGES.fold, STAGES.apply
summary_bwd, fold_bwd, apply_bwd = STAGES.summary_bwd, STAGES.fold_bwd, STAGES.apply_bwd
