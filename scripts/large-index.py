"""Indices past 2^31: rows of one long sequence on a GPU, forwards and back, beside the recurrence in float64.

    python scripts/large-index.py [--tokens 1064960] [--heads 16] [--size 128] [--rules retention,gla,gated-delta-net]
        [--dtypes bf16] [--forward] [--packages DIR] [--device cuda]

1,064,960 tokens of 16 heads of 128 are 2.18e9 elements a tensor, 4.4e9 bytes in bf16. Rows beside the ends, the middle and the
2^31st element are compared, of the first, a middle and the last head. Decays forget what is 512 tokens away, to 1e-11,
so that the float64 recurrence goes over the tokens around a row alone; gradients come from it by autograd. Packages are
compiled by `laspc compile --emit torch` (Node must be there), or are in DIR as RULE_DTYPE already. Ends with 1 where the rows are
further off than the table of tolerances allows (compiler/tolerance.ts). Takes 80 GB in bf16; in f32 no more, with --forward.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
WINDOW = 512
TOLERANCE = {"bf16": (5e-3, 8e-3), "f16": (1e-3, 2e-3), "f32": (1e-5, 1e-4)}
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
# Inputs of each rule, in order; lower-case g: a log decay for each token, G: for each channel of it, gamma: a decay.
INPUTS = {"retention": "q k v gamma", "gla": "q k v G", "gated-delta-net": "q k v g beta"}

Inputs = dict[str, Tensor]


def package(rule: str, dtype: str, size: int, folder: Path) -> Any:
    name = f"{rule.replace('-', '_')}_{dtype}"
    if not (folder / name).exists():
        source = ROOT / "dsl-examples" / f"{rule}.lasp"
        options = ["--emit", "torch", "--dtype", dtype, "--dim", f"K={size},V={size}"]
        command = ["node", str(ROOT / "dist/laspc.js"), "compile", str(source), *options, "--out", str(folder / name)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def draw(rule: str, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Inputs:
    """Each [1, T, H, ...] but gamma, [H]. Decays between exp(-0.1) and exp(-0.05)."""
    T, H, size = shape
    generator = torch.Generator(device).manual_seed(0)

    def normal(*dims: int) -> Tensor:
        return torch.randn(dims, device=device, dtype=dtype, generator=generator)

    def log_decay(*dims: int) -> Tensor:
        return torch.rand(dims, device=device, dtype=dtype, generator=generator).mul_(-0.05).sub_(0.05)

    makers = {
        "gamma": lambda: log_decay(H).float().exp(),
        "g": lambda: log_decay(1, T, H).float(),
        "G": lambda: log_decay(1, T, H, size),
        "beta": lambda: torch.rand(1, T, H, device=device, generator=generator),
    }
    return {name: makers.get(name, lambda: normal(1, T, H, size))() for name in INPUTS[rule].split()}


def recurrence(rule: str, x: Inputs) -> Tensor:
    """Outputs [R, W, V] of R rows' windows, from a state of zero; token tensors [R, W, ...], gamma [R]."""
    q, k, v = x["q"], x["k"], x["v"]
    if rule == "gated-delta-net":
        q, k = (y * torch.rsqrt((y * y).sum(-1, keepdim=True) + 1e-6) for y in (q, k))
    S = q.new_zeros(q.shape[0], q.shape[2], v.shape[2])
    rows = []
    for t in range(q.shape[1]):
        if rule == "retention":
            decay = x["gamma"][:, None, None]
        else:
            decay = x["G"][:, t, :, None].exp() if "G" in x else x["g"][:, t, None, None].exp()
        S = decay * S
        written = v[:, t]
        if rule == "gated-delta-net":
            written = x["beta"][:, t, None] * (written - torch.einsum("rk,rkv->rv", k[:, t], S))
        S = S + k[:, t, :, None] * written[:, None, :]
        rows.append(torch.einsum("rk,rkv->rv", q[:, t], S) / math.sqrt(q.shape[2]))
    return torch.stack(rows, dim=1)


def windows(T: int, heads: list[int], tokens: list[int]) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
    """(place of the row, [(first, end, head)]): windows with as much before and behind, batched."""
    groups: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for t in tokens:
        first, end = max(0, t - WINDOW), min(T, t + WINDOW + 1)
        for head in heads:
            groups.setdefault((t - first, end - first), []).append((first, end, head))
    for (place, _), group in groups.items():
        yield place, group


def exact(rule: str, x: Inputs, d_o: Tensor, place: int, group: list[tuple[int, int, int]]) -> Inputs:
    """The row's output, and its gradients where it has a window behind it, in float64; each [R, ...]."""

    def cut(tensor: Tensor) -> Tensor:
        if tensor.dim() == 1:
            return torch.stack([tensor[head] for _, _, head in group]).double()
        return torch.stack([tensor[0, first:end, head] for first, end, head in group]).double()

    own = {name: cut(tensor).requires_grad_() for name, tensor in x.items()}
    out = recurrence(rule, own)
    names = [name for name in own if name != "gamma"]
    grads = torch.autograd.grad((out * cut(d_o)).sum(), [own[name] for name in names])
    found = {f"d_{name}": grad[:, place] for name, grad in zip(names, grads)}
    return {"o": out[:, place].detach(), **found}


def check(rule: str, dtype: str, options: argparse.Namespace, folder: Path) -> bool:
    T, H, size = options.tokens, options.heads, options.size
    module = package(rule, dtype, size, folder)
    call = getattr(module, module.__all__[0])
    started = time.time()
    x = draw(rule, (T, H, size), DTYPES[dtype], options.device)
    d_o = torch.randn(x["q"].shape, device=options.device, dtype=DTYPES[dtype])
    leaves = {name: tensor.requires_grad_(name != "gamma" and not options.forward) for name, tensor in x.items()}
    o, _ = call(*leaves.values())
    if not options.forward:
        o.backward(d_o)
    results = {"o": o.detach(), **{f"d_{n}": t.grad for n, t in leaves.items() if t.grad is not None}}
    if options.device == "cuda":
        torch.cuda.synchronize()
    print(f"{rule} {dtype}: {o.numel():.3g} elements in {o.numel() * o.element_size():.3g} bytes, {time.time() - started:.1f} s", flush=True)
    del o
    x = {name: tensor.detach() for name, tensor in x.items()}

    crossing = 2**31 // (H * size)
    wanted = [0, 1, T // 2, crossing // 2, crossing - 1, crossing, crossing + 1, crossing + 100, T - 2, T - 1]
    tokens = sorted({t for t in wanted if 0 <= t < T})
    squares: dict[str, list[float]] = {}
    worst: dict[str, tuple[float, int]] = {}
    for place, group in windows(T, sorted({0, H // 2, H - 1}), tokens):
        for name, expected in exact(rule, x, d_o, place, group).items():
            if name not in results:
                continue
            found = torch.stack([results[name][0, first + place, head] for first, _, head in group]).double()
            error = (found - expected).reshape(len(group), -1).square().sum(1)
            scale = expected.reshape(len(group), -1).square().sum(1)
            sums = squares.setdefault(name, [0.0, 0.0])
            sums[0] += error.sum().item()
            sums[1] += scale.sum().item()
            ratios = torch.where(error == 0, 0.0, (error / scale).sqrt()).nan_to_num(nan=math.inf, posinf=math.inf)
            at = int(ratios.argmax())
            worst[name] = max(worst.get(name, (0.0, 0)), (ratios[at].item(), group[at][0] + place))
    ok = True
    value, gradient = TOLERANCE[dtype]
    for name, (error, scale) in squares.items():
        ratio = math.sqrt(error / scale)
        tolerance = gradient if name.startswith("d_") else value
        ok &= ratio <= tolerance
        verdict = "ok" if ratio <= tolerance else "WRONG"
        print(f"  {name}: rmse ratio {ratio:.2e} of {len(tokens)} rows, tolerance {tolerance}: {verdict}; worst row {worst[name][0]:.2e} at token {worst[name][1]}", flush=True)
    return ok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_064_960)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--size", type=int, default=128, help="of heads, K = V; packages must have it")
    parser.add_argument("--rules", default=",".join(INPUTS))
    parser.add_argument("--dtypes", default="bf16")
    parser.add_argument("--forward", action="store_true", help="no gradients")
    parser.add_argument("--packages", type=Path, help="folder of compiled packages")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    folder = options.packages or Path(tempfile.mkdtemp())
    results = []
    for dtype in options.dtypes.split(","):
        for rule in options.rules.split(","):
            results.append(check(rule, dtype, options, folder))
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()
    print(f"{sum(results)} of {len(results)} ok")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
