"""The sequence over a process group, in processes that talk over gloo: see `group_ranks.py`."""

from __future__ import annotations

import pytest
import torch.distributed as dist
from conftest import SIGNATURE
from torch import multiprocessing


@pytest.mark.skipif(not SIGNATURE.states, reason="this attention has no state to exchange")
@pytest.mark.skipif(not dist.is_available(), reason="this PyTorch has no torch.distributed")
def test_ranks_compute_what_one_process_does(tmp_path):
    import group_ranks

    multiprocessing.spawn(group_ranks.run, (str(tmp_path / "store"),), nprocs=group_ranks.RANKS)
