"""Puts this folder's parts together: the signature, what runs each form where, and the operators."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Optional

import torch
from torch import Tensor

from . import formula
from .group import Grouped
from .kernels import Kernels
from .operators import Implementation, Operators
from .parts import Parts
from .plain import Printed, run_plain
from .signature import CallSizes, Form, may_be_absent, read_signature, shape_of
from .stages import Stages

FOLDER = Path(__file__).parent
SIGNATURE = read_signature(FOLDER)


def _on_cpu(
    form: Form, known: Mapping[str, Tensor], cu_seqlens: Optional[Tensor], sizes: CallSizes
) -> dict[str, Tensor]:
    printed: Printed = getattr(formula, form.name)
    device = next(iter(known.values())).device
    tensors = [
        known[spec.name]
        if spec.name in known or not may_be_absent(spec)
        else torch.zeros(shape_of(spec, sizes), dtype=spec.dtype, device=device)
        for spec in form.inputs
    ]
    results = run_plain(SIGNATURE.name, form, printed, tensors, cu_seqlens, sizes)
    return {spec.name: x for spec, x in zip(form.outputs, results)}


KERNELS = Kernels(SIGNATURE, FOLDER)
OPERATORS = Operators(
    SIGNATURE,
    {
        "CPU": Implementation(_on_cpu),
        "CUDA": Implementation(KERNELS.run, KERNELS.length, KERNELS.intra),
    },
)
STAGES = Stages(OPERATORS)
GROUPED = Grouped(OPERATORS, STAGES, Parts(OPERATORS, STAGES, KERNELS))
summary, fold, apply = STAGES.summary, STAGES.fold, STAGES.apply
summary_bwd, fold_bwd, apply_bwd = STAGES.summary_bwd, STAGES.fold_bwd, STAGES.apply_bwd
