"""Times generated PyTorch packages beside their peers on one GPU, in one process and one run.

    python bench/bench.py [--rules lightning,gla] [--shapes 8,8192,16 1,65536,16] [--size 128] [--kernels] [--packages DIR] [--json FILE]
    python bench/bench.py --files mine.lasp [--dims K=128,V=256] [--shapes ...] [--kernels] [--json FILE]

Each rule, or attention of a file, is compiled by `laspc compile --emit torch` (Node must be there, or the packages in DIR already). Peers
are timed when they can be imported: flash-linear-attention (`fla`), PyTorch's own softmax attention. Times are
medians of CUDA-graph replays between CUDA events, over random inputs that rotate through more memory than the L2
cache has; those of single kernels (`--kernels`) are the profiler's. Bandwidth counts each input and output once, beside a copy measured in the same run. Errors are
RMS(exact - x) / RMS(exact) over 32 draws of one head and 512 tokens, the recurrence in float64 being exact. Of
files there are times and memory alone, of inputs drawn from their declared ranges; gradients are those of tokens' tensors.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Optional

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize, scaled_dot_product_attention

ROOT = Path(__file__).resolve().parents[1]
K = V = 128
L2_BYTES = 60 << 20
DRAWS = 32

Inputs = dict[str, Tensor]


def decays(H: int) -> Tensor:
    """Lightning's slopes: 8/H, 16/H ... of it, as natural logarithms of one token's decay."""
    return -(8 / H) * (torch.arange(H, device="cuda") + 1) * 0.1


def draw(names: str, B: int, T: int, H: int, seed: int) -> Inputs:
    """Random inputs of a call by name, bf16 but for gates of a whole head."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=generator)

    makers: dict[str, Callable[[], Tensor]] = {
        "q": lambda: randn(B, T, H, K).bfloat16(),
        "k": lambda: randn(B, T, H, K).bfloat16(),
        "v": lambda: randn(B, T, H, V).bfloat16(),
        "gamma": lambda: decays(H).exp(),
        "g": lambda: logsigmoid(randn(B, T, H)) / 16,
        "G": lambda: (logsigmoid(randn(B, T, H, K)) / 16).bfloat16(),
        "beta": lambda: torch.sigmoid(randn(B, T, H)),
    }
    return {name.lower(): makers[name]() for name in names.split()}


def recurrence(update: Callable[..., Tensor], is_scaled: bool = True) -> Callable[[Inputs], Tensor]:
    """o_t = q_t S_t in float64, over sqrt(K) if `is_scaled`, S_t = update(S, tokens' rows); for comparison alone."""

    def run(x: Inputs) -> Tensor:
        wide = {name: tensor.double() for name, tensor in x.items()}
        scale = 1 / math.sqrt(K) if is_scaled else 1.0
        T = wide["q"].shape[1]
        S = wide["q"].new_zeros(*wide["q"].shape[:1], wide["q"].shape[2], K, V)
        rows = []
        for t in range(T):
            at = {n: (y if y.dim() == 1 else y[:, t]) for n, y in wide.items()}
            S = update(S, **at)
            rows.append(torch.einsum("bhk,bhkv->bhv", at["q"], S) * scale)
        return torch.stack(rows, dim=1)

    return run


def outer(k: Tensor, v: Tensor) -> Tensor:
    return k[..., :, None] * v[..., None, :]


def corrected(S: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    return S + beta[..., None, None] * outer(k, v - torch.einsum("bhk,bhkv->bhv", k, S))


#: rule: its file, the inputs by the package's names, the peer, and the exact recurrence.
RULES: dict[str, dict[str, Any]] = {
    "lightning": {
        "file": "retention",
        "inputs": "q k v gamma",
        "exact": recurrence(lambda S, q, k, v, gamma: gamma[:, None, None] * S + outer(k, v)),
        "fla": ("fla.ops.simple_gla", "chunk_simple_gla", lambda x: dict(g_gamma=x["gamma"].log())),
    },
    "simple-gla": {
        "file": "simple-gla",
        "inputs": "q k v g",
        "exact": recurrence(lambda S, q, k, v, g: g.exp()[..., None, None] * S + outer(k, v)),
        "fla": ("fla.ops.simple_gla", "chunk_simple_gla", lambda x: dict(g=x["g"])),
    },
    "gla": {
        "file": "gla",
        "inputs": "q k v G",
        "exact": recurrence(lambda S, q, k, v, g: g.exp()[..., None] * S + outer(k, v)),
        "fla": ("fla.ops.gla", "chunk_gla", lambda x: dict(g=x["g"])),
    },
    "delta-net": {
        "file": "delta-net",
        "inputs": "q k v beta",
        "unit": True,
        "exact": recurrence(lambda S, q, k, v, beta: corrected(S, k, v, beta), False),
        "fla": (
            "fla.ops.delta_rule",
            "chunk_delta_rule",
            lambda x: dict(beta=x["beta"], scale=1.0, use_qk_l2norm_in_kernel=True),
        ),
    },
    "gated-delta-net": {
        "file": "gated-delta-net",
        "inputs": "q k v g beta",
        "unit": True,
        "exact": recurrence(
            lambda S, q, k, v, g, beta: corrected(g.exp()[..., None, None] * S, k, v, beta)
        ),
        "fla": (
            "fla.ops.gated_delta_rule",
            "chunk_gated_delta_rule",
            lambda x: dict(g=x["g"], beta=x["beta"], use_qk_l2norm_in_kernel=True),
        ),
    },
}


def load(rule: str, source: Path, dims: str, packages: Optional[Path]) -> Any:
    """The package of a file, compiled first where `packages` does not have it."""
    name = rule.replace("-", "_")
    folder = packages or Path(tempfile.mkdtemp())
    if not (folder / name).exists():
        options = ["--emit", "torch", "--dtype", "bf16", "--dim", dims, "--out", str(folder / name)]
        subprocess.run(["node", str(ROOT / "dist/laspc.js"), "compile", str(source), *options], check=True)
    sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def function_of(package: Any) -> Callable[[Inputs], Tensor]:
    """Its first output, of inputs by name."""
    function = getattr(package, package.__all__[0])

    def call(x: Inputs) -> Tensor:
        outputs = function(**x)[0]
        return outputs if isinstance(outputs, Tensor) else outputs[0]

    return call


def draw_of(package: Any, B: int, T: int, H: int, seed: int) -> Inputs:
    """Random inputs of any package: normal, or inside the declared range."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def one(spec: Any) -> Tensor:
        shape = {"token": (B, T, H), "head": (H,), "shared": ()}[spec.per] + spec.dims
        if spec.low is not None and spec.high is not None:
            uniform = torch.rand(shape, device="cuda", generator=generator)
            return (spec.low + (spec.high - spec.low) * uniform).to(spec.dtype)
        x = torch.randn(shape, device="cuda", generator=generator)
        if spec.high is not None:
            x = spec.high - x.abs()
        elif spec.low is not None:
            x = spec.low + x.abs()
        return x.to(spec.dtype)

    return {spec.name: one(spec) for spec in package.binding.SIGNATURE.inputs}


def peer(rule: str) -> Optional[Callable[[Inputs], Tensor]]:
    module, function, options = RULES[rule]["fla"]
    try:
        call = getattr(importlib.import_module(module), function)
    except ImportError:
        return None
    return lambda x: call(x["q"], x["k"], x["v"], **options(x))[0]


def replay_ms(step: Callable[[int], Any], count: int) -> float:
    """Milliseconds of a step: the median of replays of a graph of `count` of them."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for i in range(count):
            step(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for i in range(count):
            step(i)
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / count)
    return sorted(times)[len(times) // 2]


def with_gradients(x: Inputs, fixed: set[str]) -> list[Tensor]:
    return [tensor.requires_grad_() for name, tensor in x.items() if name not in fixed]


def measure(call: Callable[[Inputs], Tensor], inputs: Callable[[int], Inputs], fixed: set[str]) -> dict[str, Any]:
    """Times of the forward and of forward with backward, and memory beyond inputs and results.

    `inputs`: by seed; `fixed`: those without gradients.
    """
    first = inputs(0)
    size = sum(x.numel() * x.element_size() for x in first.values())
    sets = [first, *(inputs(i) for i in range(1, 1 + max(1, L2_BYTES // size)))]
    with torch.no_grad():
        cotangent = torch.randn_like(call(first))
    moved = size + cotangent.numel() * 2
    found: dict[str, Any] = {}
    with torch.no_grad():
        found["forward_ms"] = replay_ms(lambda i: call(sets[i % len(sets)]), 2 * len(sets))
    found["forward_tb_per_s"] = moved / found["forward_ms"] / 1e9
    leaves = [with_gradients(x, fixed) for x in sets]

    def both(i: int) -> Any:
        n = i % len(sets)
        return torch.autograd.grad(call(sets[n]), leaves[n], cotangent)

    try:
        both(0)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        both(0)
        results = cotangent.numel() * 2 + sum(x.numel() * x.element_size() for x in first.values())
        extra = torch.cuda.max_memory_allocated() - before - results
        found["extra_memory_ratio"] = max(extra, 0) / (moved + results)
        found["forward_backward_ms"] = replay_ms(both, 2 * len(sets))
    except Exception as error:  # A peer may refuse.
        found["forward_backward_ms"] = None
        found["refused"] = str(error).strip().splitlines()[-1][:120]
    return found


def kernel_ms(call: Callable[[Inputs], Tensor], x: Inputs, fixed: set[str]) -> dict[str, float]:
    """Milliseconds of each kernel of a forward with its backward, the mean of three by PyTorch's profiler."""
    leaves = with_gradients(x, fixed)
    cotangent = torch.randn_like(call(x))
    torch.autograd.grad(call(x), leaves, cotangent)
    torch.cuda.synchronize()
    count = 3
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(count):
            torch.autograd.grad(call(x), leaves, cotangent)
        torch.cuda.synchronize()
    return {
        event.key: round(event.device_time_total / 1000 / count, 4)
        for event in profile.key_averages()
        if event.device_time_total > 0
    }


def error_of(call: Callable[[Inputs], Tensor], rule: dict[str, Any]) -> float:
    """Over several draws: of one, two kernels that round alike differ by a few thousandths either way."""
    errors = exacts = 0.0
    for seed in range(DRAWS):
        x = draw(rule["inputs"], 1, 512, 1, seed)
        given = dict(x)
        if rule.get("unit"):
            # The rule normalises queries and keys itself.
            given["q"], given["k"] = (normalize(x[n].double(), dim=-1) for n in ("q", "k"))
        exact = rule["exact"](given)
        errors += float((call(x).double() - exact).square().mean())
        exacts += float(exact.square().mean())
    return math.sqrt(errors / exacts)


def softmax_ms(shape: tuple[int, int, int]) -> float:
    B, T, H = shape
    q, k, v = (torch.randn(B, H, T, K, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    return replay_ms(lambda _: scaled_dot_product_attention(q, k, v, is_causal=True), 2)


def copy_tb_per_s() -> float:
    """By a kernel that reads and writes 1 GiB: graphs copy with an engine that is slower."""
    x, y = (torch.zeros(1 << 28, dtype=torch.float32, device="cuda") for _ in range(2))
    return 8 * x.numel() / replay_ms(lambda _: torch.add(x, 1.0, out=y), 4) / 1e9


def main() -> None:
    global K, V
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rules", help=f"comma-separated, of {', '.join(RULES)}; else all")
    parser.add_argument("--files", nargs="+", type=Path, help="time attentions of .lasp files instead, without peers")
    parser.add_argument("--dims", help="sizes of the files' dims, as laspc's --dim has them; else --size for K and V")
    parser.add_argument("--shapes", nargs="+", default=["8,8192,16", "1,65536,16", "1,8192,16"], help="B,T,H")
    parser.add_argument("--size", type=int, default=K, help="of heads, K = V; packages must have it")
    parser.add_argument("--packages", type=Path, help="folder of compiled packages")
    parser.add_argument("--kernels", action="store_true", help="time each of the package's kernels too")
    parser.add_argument("--softmax", action="store_true", help="time PyTorch's softmax attention too")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    stems = [file.stem for file in options.files or []]
    if options.files and options.rules:
        parser.error("--rules have files of their own: either these or --files")
    if options.dims and not options.files:
        parser.error("--dims are those of --files")
    if len(set(stems)) < len(stems):
        parser.error("files of one name would be one package")
    K = V = options.size
    copied = copy_tb_per_s()
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "copy_tb_per_s": copied, "rows": []}
    print(f"{report['device']}: copies at {copied:.2f} TB/s")

    def note(**row: Any) -> None:
        report["rows"].append(row)
        text = {n: f"{x:.4g}" if isinstance(x, float) else str(x) for n, x in row.items()}
        print("  ".join(f"{n} {x}" for n, x in text.items()), flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=2) + "\n")

    def time_shapes(
        name: str, callables: dict[str, Callable[[Inputs], Tensor]], drawn: Callable[..., Inputs], fixed: set[str]
    ) -> None:
        for text in options.shapes:
            B, T, H = map(int, text.split(","))
            inputs = lambda seed: drawn(B, T, H, seed)  # noqa: E731
            for who, made in callables.items():
                note(rule=name, of=who, shape=text, **measure(made, inputs, fixed))
                torch.cuda.empty_cache()
            if options.kernels:
                note(rule=name, of="laspc", shape=text, kernels_ms=kernel_ms(callables["laspc"], inputs(0), fixed))
                torch.cuda.empty_cache()

    os.environ.setdefault("LASPC_CACHE", tempfile.mkdtemp())
    sizes = f"K={K},V={V}"
    for file in options.files or []:
        package = load(file.stem, file, options.dims or sizes, options.packages)
        fixed = {spec.name for spec in package.binding.SIGNATURE.inputs if spec.per != "token"}
        time_shapes(file.stem, {"laspc": function_of(package)}, lambda *shape: draw_of(package, *shape), fixed)
    for name in [] if options.files else (options.rules or ",".join(RULES)).split(","):
        rule = RULES[name]
        started = time.perf_counter()
        source = ROOT / "dsl-examples" / f"{rule['file']}.lasp"
        call = function_of(load(name, source, sizes, options.packages))
        x = draw(rule["inputs"], 1, 64, 1, 0)
        leaf = x["q"].requires_grad_()
        call({**x, "q": leaf}).float().sum().backward()
        torch.cuda.synchronize()
        cold = time.perf_counter() - started
        note(rule=name, of="laspc", cold_start_s=cold, error=error_of(call, rule))
        theirs = peer(name)
        if theirs:
            note(rule=name, of="fla", error=error_of(theirs, rule))
        callables = {"laspc": call, **({"fla": theirs} if theirs else {})}
        # Decays of heads are held fixed, as FLA holds them.
        time_shapes(name, callables, lambda *shape: draw(rule["inputs"], *shape), {"gamma"})
    if options.softmax:
        for text in options.shapes:
            B, T, H = map(int, text.split(","))
            note(rule="softmax", of="torch", shape=text, forward_ms=softmax_ms((B, T, H)))


if __name__ == "__main__":
    main()
