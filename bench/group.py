"""Times a generated PyTorch package over a process group beside the same shard on one device without a group.

    torchrun --nproc-per-node 2 bench/group.py [--tokens 65536] [--schedules ring,allgather] [--packages DIR] [--json FILE]

Each rank has `--tokens` of one sequence (lightning, bf16, K = V = 128) on its own GPU, over NCCL. Times are of a forward with its
backward, the slowest rank's, each the median of several runs between CUDA events: `eager`, and `graph`, as replays of a CUDA
graph that holds the messages too (null with the reason where NCCL cannot be captured). The exchange's cost is what the group's
time is over the time without a group, measured in turns with it. Bytes are what a rank sends in both directions, counted where
they are sent. Errors are the largest differences of outputs and gradients from the whole sequence on one device, over its
largest number. The package is compiled by `laspc compile --emit torch` (Node must be there) unless it is in DIR, by the name
`lightning`: laspc compile dsl-examples/retention.lasp --emit torch --dtype bf16 --dim K=128,V=128 --out DIR/lightning

Without a GPU it runs over gloo on the CPU, to see that it runs; those times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist
from bench import K, V, load
from torch import Tensor

LEAVES = ("q", "k", "v")
Step = Callable[[int], Any]
RUNS = 7


class Rank:
    """This process: its device and group, and how it times things."""

    def __init__(self) -> None:
        self.has_gpu = torch.cuda.is_available()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device("cuda", local) if self.has_gpu else torch.device("cpu")
        if self.has_gpu:
            torch.cuda.set_device(self.device)
        # A rank that fails must not leave the other waiting for long.
        backend, patience = ("nccl" if self.has_gpu else "gloo"), timedelta(minutes=3)
        dist.init_process_group(backend, timeout=patience)
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.group = dist.group.WORLD

    def synchronize(self) -> None:
        if self.has_gpu:
            torch.cuda.synchronize()

    def together(self) -> None:
        """All ranks are here, and their devices idle."""
        self.synchronize()
        dist.barrier(device_ids=[self.device.index] if self.has_gpu else None)
        self.synchronize()

    def slowest(self, value: float) -> float:
        largest = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return float(largest)

    def is_true_for_all(self, value: bool) -> bool:
        return self.slowest(0.0 if value else 1.0) == 0.0

    def run_ms(self, run: Callable[[], Any]) -> float:
        """The slowest rank's time of one run, all beginning together."""
        self.together()
        if not self.has_gpu:
            begun = time.perf_counter()
            run()
            return self.slowest(1e3 * (time.perf_counter() - begun))
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return self.slowest(start.elapsed_time(end))


def in_turns_ms(own: Rank, runs: dict[str, Callable[[], Any]], each: int) -> dict[str, float]:
    """Medians by name, divided by `each`; one after the other, so that a clock that drifts does so for all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(RUNS):
        for name, run in runs.items():
            times[name].append(own.run_ms(run) / each)
    return {name: sorted(found)[RUNS // 2] for name, found in times.items()}


def warm(own: Rank, step: Step) -> None:
    """Steps on a stream that is not the usual one, as before every capture."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(0)
        step(1)
    own.together()


def captured(step: Step, each: int) -> torch.cuda.CUDAGraph:
    """A graph of so many steps, messages included."""
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    # NCCL's own threads look after what was sent before while this one captures.
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        for i in range(each):
            step(i)
    return graph


def draw(own: Rank, tokens: int, heads: int, seed: int) -> dict[str, Tensor]:
    """The whole sequence's inputs and the cotangent of its output, the same on all ranks."""
    generator = torch.Generator(own.device).manual_seed(seed)

    def randn(width: int) -> Tensor:
        shape = (1, tokens, heads, width)
        return torch.randn(*shape, device=own.device, generator=generator).bfloat16()

    slopes = (8 / heads) * (torch.arange(heads, device=own.device) + 1) * 0.1
    return {"q": randn(K), "k": randn(K), "v": randn(V), "gamma": (-slopes).exp(), "d_o": randn(V)}


def part(own: Rank, whole: dict[str, Tensor], tokens: int) -> dict[str, Tensor]:
    rows = slice(own.rank * tokens, (own.rank + 1) * tokens)
    return {n: (x if x.dim() == 1 else x[:, rows].contiguous()) for n, x in whole.items()}


def gradients(call: Callable[..., Tensor], x: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    leaves = {n: x[n].detach().requires_grad_() for n in names}
    given = {n: leaves.get(n, x[n]) for n in ("q", "k", "v", "gamma")}
    o = call(**given)
    found = torch.autograd.grad(o, list(leaves.values()), x["d_o"])
    return {"o": o.detach(), **{f"d_{n}": d for n, d in zip(names, found)}}


def errors(
    own: Rank, call: Callable[..., Tensor], alone: Callable[..., Tensor], tokens: int, heads: int
) -> dict[str, float]:
    """By name: the largest difference from the whole sequence on one device, over its largest number there."""
    whole = draw(own, tokens * own.count, heads, 7)
    names = (*LEAVES, "gamma")
    found = gradients(call, part(own, whole, tokens), names)
    # What all tokens share is each rank's own part; the sum is the whole.
    dist.all_reduce(found["d_gamma"])
    exact = gradients(alone, whole, names)
    result = {}
    for name, y in exact.items():
        own_y = y if y.dim() == 1 else y[:, own.rank * tokens : (own.rank + 1) * tokens]
        difference = (found[name].float() - own_y.float()).abs().max()
        result[name] = own.slowest(float(difference / y.float().abs().max()))
    return result


def sent_bytes(own: Rank, step: Step) -> float:
    """What this rank sends in a step, counted where the package sends it; the rank's that sends most."""
    counted = 0
    isend, gather = dist.isend, dist.all_gather_into_tensor

    def counting_isend(tensor: Tensor, *rest: Any) -> Any:
        nonlocal counted
        counted += tensor.numel() * tensor.element_size()
        return isend(tensor, *rest)

    def counting_gather(into: Tensor, tensor: Tensor, *rest: Any) -> Any:
        nonlocal counted
        counted += tensor.numel() * tensor.element_size() * (own.count - 1)
        return gather(into, tensor, *rest)

    dist.isend, dist.all_gather_into_tensor = counting_isend, counting_gather
    try:
        step(0)
    finally:
        dist.isend, dist.all_gather_into_tensor = isend, gather
    return own.slowest(counted)


def graphs(own: Rank, steps: dict[str, Step], each: int) -> tuple[dict[str, Any], Optional[str]]:
    """Replays by name, or why there are none on some rank."""
    if not own.has_gpu:
        return {}, "no GPU"
    made, why = {}, None
    for step in steps.values():
        warm(own, step)
    try:
        made = {name: captured(step, each) for name, step in steps.items()}
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0][:200]
    # Nothing is sent between a capture and this, so that a rank that could not capture leaves no other waiting.
    if not own.is_true_for_all(why is None):
        return {}, why or "another rank could not capture"
    for graph in made.values():
        graph.replay()
    own.together()
    return {name: graph.replay for name, graph in made.items()}, None


def measure(own: Rank, function: Callable[..., Any], schedule: str, options: Any) -> dict[str, Any]:
    tokens, heads, each = options.tokens, options.heads, options.steps

    def alone(**x: Tensor) -> Tensor:
        return function(**x)[0]

    def grouped(**x: Tensor) -> Tensor:
        return function(**x, group=own.group, schedule=schedule)[0]

    found: dict[str, Any] = {"schedule": schedule, "errors": errors(own, grouped, alone, tokens, heads)}
    sets = [part(own, draw(own, tokens * own.count, heads, i), tokens) for i in range(2)]
    steps: dict[str, Step] = {
        "alone": lambda i: gradients(alone, sets[i % 2], LEAVES),
        "group": lambda i: gradients(grouped, sets[i % 2], LEAVES),
    }
    for step in steps.values():
        step(0)
        step(1)
    found["bytes_sent"] = sent_bytes(own, steps["group"])

    def times(each: int, step: Step) -> Callable[[], Any]:
        def run() -> None:
            # Results go at once, as a training step's do.
            for i in range(each):
                step(i)

        return run

    found["eager_ms"] = in_turns_ms(own, {n: times(each, step) for n, step in steps.items()}, each)
    replays, why = graphs(own, steps, each)
    found["graph_ms"] = in_turns_ms(own, replays, each) if replays else None
    if why:
        found["no_graph"] = why
    for kind in ("eager_ms", "graph_ms"):
        ms = found[kind]
        found[f"{kind[:-3]}_cost_percent"] = ms and 100 * (ms["group"] / ms["alone"] - 1)
    return found


def shown(row: dict[str, Any]) -> str:
    texts = [f"{row['schedule']:<10}"]
    for kind in ("eager", "graph"):
        ms = row[f"{kind}_ms"]
        if ms is None:
            texts.append(f"{kind}: none ({row.get('no_graph')})")
            continue
        cost = row[f"{kind}_cost_percent"]
        texts.append(f"{kind}: {ms['group']:.3f} ms, alone {ms['alone']:.3f} ms, exchange {cost:+.1f} %")
    texts.append(f"{row['bytes_sent']:.0f} bytes")
    texts.append("errors " + " ".join(f"{n} {x:.1e}" for n, x in row["errors"].items()))
    return "  ".join(texts)


def package_folder(own: Rank, named: Optional[Path]) -> Path:
    """Where the package is: compiled by rank 0 where nobody names it."""
    folder: list[Any] = [named]
    if named is None and own.rank == 0:
        folder = [Path(tempfile.mkdtemp())]
        load("lightning", folder[0])
    if named is None:
        dist.broadcast_object_list(folder, device=own.device)
    return folder[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=65536, help="of each rank")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="in one run")
    parser.add_argument("--schedules", default="ring,allgather,auto", help="comma-separated")
    parser.add_argument("--packages", type=Path, help="folder of compiled packages")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    own = Rank()
    os.environ.setdefault("LASPC_CACHE", str(Path(tempfile.gettempdir()) / f"laspc-bench-{os.getuid()}"))
    function = load("lightning", package_folder(own, options.packages))
    device = torch.cuda.get_device_name() if own.has_gpu else "cpu"
    report: dict[str, Any] = {
        "device": device,
        "ranks": own.count,
        "torch": torch.__version__,
        "shape": {"B": 1, "T_per_rank": options.tokens, "H": options.heads, "K": K, "V": V},
        "rows": [],
    }
    if own.has_gpu:
        report["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    if own.rank == 0:
        print(f"{own.count} x {device}, {options.tokens} tokens each", flush=True)
    for schedule in options.schedules.split(","):
        row = measure(own, function, schedule, options)
        report["rows"].append(row)
        if own.rank == 0:
            print(shown(row), flush=True)
            if options.json:
                options.json.write_text(json.dumps(report, indent=2) + "\n")
    own.together()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
