"""What each process of `test_group.py` does: the same calls as one process, with its own tokens."""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

import torch
import torch.distributed as dist
from conftest import FORWARD, SIGNATURE, Case, assert_close, call, gradients, make_case
from load import attention
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

RANKS = 4
CPU = torch.device("cpu")
NAMES = [spec.name for spec in FORWARD.outputs]
COUNT, OUTPUTS = len(SIGNATURE.inputs), len(SIGNATURE.outputs)
SHARED = [spec.per != "token" for spec in SIGNATURE.inputs]

# Tokens of each rank.
LENGTHS = [[70], [40, 30], [0, 70], [33, 0, 37], [1, 66, 3], [0, 5, 0], [20, 30, 15, 5]]


class Part(NamedTuple):
    """Where the tokens of one rank lie."""

    group: dist.ProcessGroup
    start: int
    end: int


def run(rank: int, store: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    # Every process takes part in making each group; those of one size are used together.
    groups = [dist.new_group(list(range(size))) for size in range(1, RANKS + 1)]
    try:
        for lengths in LENGTHS:
            if rank < len(lengths):
                compare(make_case(CPU, T=sum(lengths)), groups[len(lengths) - 1], lengths)
        if rank < 3:
            compare(make_case(CPU, T=20, H=4, grouped=True), groups[2], [7, 9, 4])
            packed = make_case(CPU, cuts=[0, 3, 3, 40, 70])
            if SIGNATURE.positional:
                refuse_packed(packed, groups[2])
            else:
                compare(packed, groups[2], [33, 20, 17])
                compare(packed, groups[2], [3, 0, 67])
            break_graphs(groups[2])
        refuse(groups)
        train(rank)
    finally:
        dist.destroy_process_group()


def compare(case: Case, group: dist.ProcessGroup, lengths: Sequence[int]) -> None:
    """Results and gradients of all schedules against those of one process, with first states and without."""
    rank = dist.get_rank(group)
    start = sum(lengths[:rank])
    part = Part(group, start, start + lengths[rank])
    for has_states in (True, False):
        tensors = case.tensors
        if not has_states:
            tensors = [*tensors[:COUNT], *map(torch.zeros_like, tensors[COUNT:])]
        leaves = [x.detach().clone().requires_grad_() for x in tensors]
        results = call(case, leaves)
        grads = gradients(results, leaves, case.cotangents)
        by_schedule = []
        for schedule in ("ring", "allgather"):
            found, own_grads = run_part(case, tensors, part, schedule, has_states)
            check(part, found, own_grads, results, grads, has_states)
            by_schedule.append([*found, *own_grads])
        for x, y in zip(*by_schedule):
            assert x is y is None or torch.equal(x, y)


def begins(name: str, group: dist.ProcessGroup) -> bool:
    last = dist.get_world_size(group) - 1
    return dist.get_rank(group) == (last if SIGNATURE.ways[name] == "down" else 0)


def ends(name: str, group: dist.ProcessGroup) -> bool:
    last = dist.get_world_size(group) - 1
    return dist.get_rank(group) == (last if SIGNATURE.ways[name] == "up" else 0)


def run_part(case, tensors, part: Part, schedule: str, has_states: bool):
    """This rank's results, and gradients of its inputs and of the first states that it gave (else None)."""
    leaves = []
    for spec, x in zip(SIGNATURE.inputs, tensors):
        own = x[:, part.start : part.end] if spec.per == "token" else x
        leaves.append(own.detach().clone().requires_grad_())
    given = {
        name: x.detach().clone().requires_grad_() if has_states and begins(name, part.group) else None
        for name, x in zip(SIGNATURE.states, tensors[COUNT:])
    }
    results = call_group(leaves, given, part.group, schedule, own_cuts(case, part))
    cotangents = []
    for x in case.cotangents[:OUTPUTS]:
        cotangents.append(x[:, part.start : part.end])
    for name, x in zip(SIGNATURE.states, case.cotangents[OUTPUTS:]):
        cotangents.append(x if ends(name, part.group) else None)
    # The whole loss is the sum of the ranks' losses; each goes back, whatever it depends on.
    loss = sum((r.double() * c.double()).sum() for r, c in zip(results, cotangents) if c is not None)
    wanted = [*leaves, *(x for x in given.values() if x is not None)]
    found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
    grads: list[Optional[Tensor]] = [next(found) for _ in leaves]
    grads += [next(found) if x is not None else None for x in given.values()]
    return [x.detach() for x in results], grads


def call_group(inputs, given, group, schedule, cuts=None, function=attention) -> list[Tensor]:
    initial = given if len(given) > 1 else next(iter(given.values()))
    outputs, final = function(
        *inputs,
        initial_state=initial,
        output_final_state=True,
        cu_seqlens=cuts,
        group=group,
        schedule=schedule,
    )
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return outputs + ([final] if isinstance(final, Tensor) else list(final.values()))


def own_cuts(case: Case, part: Part) -> Optional[Tensor]:
    return None if case.cuts is None else case.cuts.clamp(part.start, part.end) - part.start


def check(part: Part, found, own_grads, results, grads, has_states: bool) -> None:
    for name, x, y in zip(NAMES[:OUTPUTS], found, results):
        assert_close([name], [joined(part, x, y)], [y], "outputs")
    for state, name, x, y in zip(
        SIGNATURE.states, NAMES[OUTPUTS:], found[OUTPUTS:], results[OUTPUTS:]
    ):
        if ends(state, part.group):
            assert_close([name], [x], [y], "outputs")
    for spec, x, y in zip(SIGNATURE.inputs, own_grads, grads):
        if spec.per == "token":
            x = joined(part, x, y)
        else:
            x = x.float()
            dist.all_reduce(x, group=part.group)
            x = x.to(y.dtype)
        assert_close([f"d_{spec.name}"], [x], [y], "gradients")
    for name, x, y in zip(SIGNATURE.states, own_grads[COUNT:], grads[COUNT:]):
        assert (x is not None) == (has_states and begins(name, part.group))
        if x is not None:
            assert_close([f"d_initial_{name}"], [x], [y], "gradients")


def joined(part: Part, x: Tensor, like: Tensor) -> Tensor:
    """The tokens of all ranks: errors are those of the whole, of a few tokens they may cancel to nothing."""
    whole = torch.zeros_like(like, dtype=torch.float32)
    whole[:, part.start : part.end] = x.float()
    dist.all_reduce(whole, group=part.group)
    return whole.to(like.dtype)


def break_graphs(group: dist.ProcessGroup) -> None:
    """Compiled code stops for the group and goes on behind it."""
    case = make_case(CPU, T=8, seed=dist.get_rank(group))
    given = dict.fromkeys(SIGNATURE.states)

    def twice(*inputs, **options):
        outputs, final = attention(*inputs, **options)
        return outputs, final

    compiled = torch.compile(twice, backend="eager")
    inputs = case.tensors[:COUNT]
    wanted = call_group(inputs, given, group, "ring")
    for x, y in zip(call_group(inputs, given, group, "ring", function=compiled), wanted):
        assert torch.equal(x, y)


# --- errors -------------------------------------------------------------------------------------------


def refuse(groups: Sequence[dist.ProcessGroup]) -> None:
    """What is wrong on every rank is an error on every rank, before anything is sent."""
    case = make_case(CPU, T=4)
    inputs, none = case.tensors[:COUNT], dict.fromkeys(SIGNATURE.states)
    rank = dist.get_rank()
    fails(ValueError, "schedule is one of ring", inputs, none, groups[3], "star")
    fails(TypeError, "group must be a ProcessGroup", inputs, none, "world", "ring")
    if rank > 0:
        fails(TypeError, "group must be a ProcessGroup", inputs, none, groups[0], "ring")
    elsewhere = {
        name: None if begins(name, groups[3]) else x
        for name, x in zip(SIGNATURE.states, case.tensors[COUNT:])
    }
    if any(x is not None for x in elsewhere.values()):
        fails(ValueError, "where the sequence begins", inputs, elsewhere, groups[3], "ring")


def refuse_packed(case: Case, group: dist.ProcessGroup) -> None:
    none = dict.fromkeys(SIGNATURE.states)
    fails(ValueError, "places of tokens", case.tensors[:COUNT], none, group, "ring", case.cuts)


def fails(error, match: str, *arguments) -> None:
    try:
        call_group(*arguments)
    except error as raised:
        assert match in str(raised), raised
    else:
        raise AssertionError(f"no {error.__name__}: {match}")


# --- beside data parallelism ----------------------------------------------------------------------------


class Layer(nn.Module):
    """The attention with parameters: what its heads share, and a factor for each token input."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        own = [x.clone() for x, shared in zip(case.tensors, SHARED) if shared]
        self.shared = nn.ParameterList(own)
        self.factors = nn.Parameter(torch.ones(COUNT - len(own)))

    def forward(self, tokens: Sequence[Tensor], group: Optional[dist.ProcessGroup]) -> Tensor:
        scaled = ((x * f).to(x.dtype) for x, f in zip(tokens, self.factors))
        shared = iter(self.shared)
        inputs = [next(shared) if is_shared else next(scaled) for is_shared in SHARED]
        options = {} if group is None else {"group": group}
        outputs, _ = attention(*inputs, **options)
        return outputs if isinstance(outputs, Tensor) else outputs[0]


def train(rank: int) -> None:
    """Two sequences' groups of two ranks, the batch cut in two: DDP's and FSDP's gradients are one process's."""
    sequence = [dist.new_group([0, 1]), dist.new_group([2, 3])][rank // 2]
    case = make_case(CPU, T=30, B=4)
    tokens = [x for x, shared in zip(case.tensors, SHARED) if not shared][: COUNT - sum(SHARED)]
    whole = Layer(case)
    wanted = whole(tokens, None)
    (wanted.float() * case.cotangents[0].float()).sum().backward()
    batch = slice(0, 2) if rank < 2 else slice(2, 4)
    part = slice(0, 18) if rank % 2 == 0 else slice(18, 30)
    for wrapped in (DistributedDataParallel(Layer(case)), sharded(Layer(case))):
        output = wrapped([x[batch, part] for x in tokens], sequence)
        # Both give the mean over ranks; the sum is wanted.
        (RANKS * (output.float() * case.cotangents[0][batch, part].float()).sum()).backward()
        parameters = [(name.removeprefix("module."), x) for name, x in wrapped.named_parameters()]
        assert [name for name, _ in parameters] == [name for name, _ in whole.named_parameters()]
        for (name, x), y in zip(parameters, whole.parameters()):
            assert x.grad is not None and y.grad is not None
            grad = x.grad.full_tensor() if isinstance(x.grad, DTensor) else x.grad
            assert_close([name], [grad], [y.grad], "gradients")


def sharded(layer: Layer) -> nn.Module:
    """With its parameters cut over all ranks (FSDP2)."""
    fully_shard(layer, mesh=init_device_mesh("cpu", (RANKS,)))
    assert all(isinstance(x, DTensor) for x in layer.parameters())
    return layer
