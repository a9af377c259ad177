"""Runs the PyTorch package of every example and every rule of the tests on a GPU, forwards and back, beside float64:

    python scripts/gpu-packages.py [--device cuda] [--dtypes bf16,f16,f32] [--sizes 64,128] [--lengths 1,65,333,4096]
        [--only REGEX] [--jobs N] [--references N] [--seconds 60] [--minutes 60] [--packages DIR] [--out FILE.json]

The same kernels as scripts/gpu-check.mjs runs, in less time: the definition token by token and its gradients are computed
on the GPU too, in float64, and once for all dtypes, which draw numbers that each of them holds exactly. One batch of two
heads, first states, tolerances of the packages' own tests. Node compiles the packages (dist must be built), unless they are
in DIR as RULE_DTYPE_SIZE. A package or a reference has so many seconds, all together so many minutes. `--device cpu`
runs the packages' own PyTorch. Ends with 1 where a number is beyond its tolerance, or a run failed, took too long, or did not begin.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
RULES = sorted(path for folder in ("dsl-examples", "test/rules") for path in (ROOT / folder).glob("*.lasp"))
SMALLEST = 2.0**-14
"""Of float16's numbers with all their digits."""


class Job(NamedTuple):
    """A package to run, or, without a dtype, the reference of a rule."""

    rule: str
    size: str
    dtype: Optional[str]

    @property
    def title(self) -> str:
        return f"{self.rule} {self.dtype or 'reference'} {self.size}"


# --- packages ---------------------------------------------------------------------------------------


def folder_of(folder: Path, rule: str, dtype: str, size: str) -> Path:
    return folder / f"{rule.replace('-', '_')}_{dtype}_{size}"


def compile_package(path: Path, dtype: str, size: str, options: argparse.Namespace) -> Optional[str]:
    """What went wrong, or None."""
    out = folder_of(options.packages, path.stem, dtype, size)
    if out.exists():
        return None
    text = path.read_text(encoding="utf-8")
    names = [name for name in "KV" if re.search(rf"\[[^\]]*\b{name}\b", text)]
    words = ["compile", str(path), "--emit", "torch", "--target", "cuda", "--dtype", dtype, "--out", str(out)]
    words += ["--dim", ",".join(f"{name}={size}" for name in names)] if names else []
    command = [options.node, str(ROOT / "dist/laspc.js"), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=float(options.seconds))
    except subprocess.TimeoutExpired:
        return f"laspc compile: timed out after {options.seconds} s"
    return None if done.returncode == 0 else f"laspc compile: {done.stderr[-300:]}"


# --- one job, in a process of its own ---------------------------------------------------------------


def conftest_of(folder: Path) -> Any:
    """What the package's own tests share, with inputs that every dtype holds."""
    if importlib.util.find_spec("pytest") is None:
        # Nothing but a decorator of theirs is needed.
        sys.modules["pytest"] = types.ModuleType("pytest")
        sys.modules["pytest"].fixture = lambda **_: lambda function: function  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder / "tests"))
    import conftest

    own = conftest._draw
    conftest._draw = lambda spec, shape, generator: held_by_all(
        own(spec._replace(dtype=torch.float32), shape, generator)
    ).to(spec.dtype)
    return conftest


def held_by_all(x: Tensor) -> Tensor:
    """Numbers near these that f32, f16 and bf16 hold exactly, none of them nearer to 0 than the smallest."""
    rounded = x.to(torch.bfloat16).to(x.dtype)
    return torch.where(rounded == 0, rounded, rounded.sign() * rounded.abs().clamp(min=SMALLEST))


def case_of(conftest: Any, T: int, device: torch.device) -> Any:
    case = conftest.make_case(device, T=T, B=1, H=2)
    generator = torch.Generator().manual_seed(1)
    cotangents = [
        held_by_all(torch.randn(x.shape, generator=generator)).to(device, x.dtype) for x in case.cotangents
    ]
    return case._replace(tensors=[held_by_all(x) for x in case.tensors], cotangents=cotangents)


def reference(job: Job, options: argparse.Namespace, device: torch.device, tell: Any) -> None:
    """Writes results and gradients in float64, and the inputs, of each length."""
    # The definition is the same in all of them.
    folders = [folder_of(options.packages, job.rule, dtype, job.size) for dtype in options.dtypes]
    conftest = conftest_of(next(folder for folder in folders if folder.exists()))
    for T in options.lengths:
        started = time.time()
        case = case_of(conftest, T, device)
        results, grads = conftest.exact(case)
        found = [[x.detach().cpu() for x in own] for own in (results, grads)]
        given = [x.double().cpu() for x in (*case.tensors, *case.cotangents)]
        path = reference_path(options, job, T)
        torch.save((given, *found), path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
        tell({"T": T, "ok": True, "seconds": time.time() - started, "bytes": most_memory(device)})
        del case, results, grads
        if device.type == "cuda":
            torch.cuda.empty_cache()


def reference_path(options: argparse.Namespace, job: Job, T: int) -> Path:
    return options.references_in / f"{job.rule}-{job.size}-{T}.pt"


def most_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(job: Job, options: argparse.Namespace, device: torch.device, tell: Any) -> None:
    assert job.dtype is not None
    conftest = conftest_of(folder_of(options.packages, job.rule, job.dtype, job.size))
    for T in options.lengths:
        started = time.time()
        case = case_of(conftest, T, device)
        leaves = [x.detach().clone().requires_grad_() for x in case.tensors]
        found = conftest.call(case, leaves)
        grads = conftest.gradients(found, leaves, case.cotangents)
        if device.type == "cuda":
            torch.cuda.synchronize()
        path = reference_path(options, job, T)
        if not path.exists():
            tell({"T": T, "ok": False, "error": "ran, but there is no reference"})
            continue
        given, results, gradients = torch.load(path)
        own = (*case.tensors, *case.cotangents)
        assert all(torch.equal(x, y.double().cpu()) for x, y in zip(given, own)), "other inputs than the reference's"
        names = [spec.name for spec in conftest.FORWARD.outputs]
        outputs = shares_of(conftest, "outputs", names, found, results)
        names = [f"d_{spec.name}" for spec in conftest.FORWARD.inputs]
        outputs |= shares_of(conftest, "gradients", names, grads, gradients)
        beyond = {name: ratio for name, (ratio, share) in outputs.items() if not share <= 1}
        worst = max(outputs, key=lambda name: outputs[name][1])
        tell(
            {
                "T": T,
                "ok": not beyond,
                "worst": worst,
                "ratio": outputs[worst][0],
                "share": outputs[worst][1],
                "beyond": beyond,
                "seconds": time.time() - started,
            }
        )


def shares_of(
    conftest: Any, kind: str, names: list[str], found: list[Tensor], wanted: list[Tensor]
) -> dict[str, tuple[float, float]]:
    """RMS(wanted - found) / RMS(wanted) of each tensor, and its share of what `assert_close` allows; infinite for NaN."""
    shares = {}
    for name, x, y in zip(names, found, wanted):
        assert x.shape == y.shape, name
        error = (y - x.detach().double().cpu()).square().mean().sqrt().item()
        scale = y.square().mean().sqrt().item()
        ratio = 0.0 if error == 0 or x.numel() == 0 else error / scale if scale > 0 else math.inf
        ratio = math.inf if math.isnan(ratio) else ratio
        shares[name] = (ratio, ratio / conftest.TOLERANCES[kind][conftest.STORED[x.dtype]])
    return shares


def work(job: Job, options: argparse.Namespace, path: Path) -> None:
    """One line of JSON for each length."""
    torch.set_num_threads(1)
    with path.open("w") as out:

        def tell(row: dict[str, Any]) -> None:
            print(json.dumps(row), file=out, flush=True)

        try:
            (reference if job.dtype is None else compare)(job, options, torch.device(options.device), tell)
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {str(error)[:300]} ({Path(last.filename).name}:{last.lineno})"
            tell({"ok": False, "error": text})
    # Nothing of the driver's is to hold the process up.
    os._exit(0)


# --- all of them ------------------------------------------------------------------------------------


class Running(NamedTuple):
    process: Any
    path: Path
    started: float


class Runner:
    """Starts jobs while time is left: of one rule and size one at a time, the reference first, the longest texts first."""

    def __init__(self, groups: list[list[Job]], options: argparse.Namespace, end: float) -> None:
        self.groups = groups
        self.options = options
        self.end = end
        self.running: dict[Job, Running] = {}
        self.rows: list[dict[str, Any]] = []
        self.done = 0
        self.total = sum(map(len, groups))
        self.context = multiprocessing.get_context("fork")

    def run(self) -> None:
        last = time.time()
        while self.running or any(self.groups):
            if time.time() > self.end:
                break
            self.start()
            for job in [job for job in self.running if self.has_ended(job)]:
                self.finish(job)
            if time.time() - last >= 15:
                last = time.time()
                self.progress()
            time.sleep(0.05)
        for job in list(self.running):
            self.finish(job, "not done in time")
        for job in (job for group in self.groups for job in group):
            self.tell(job, [], "not run")

    def start(self) -> None:
        busy = {job[:2] for job in self.running}
        references = sum(job.dtype is None for job in self.running)
        # What was begun is ended first: its reference is there.
        for group in sorted(self.groups, key=lambda group: bool(group) and group[0].dtype is None):
            if len(self.running) >= self.options.jobs:
                return
            if not group or group[0][:2] in busy:
                continue
            if group[0].dtype is None and references >= self.options.references:
                continue
            job = group.pop(0)
            references += job.dtype is None
            path = self.options.references_in / f"{'-'.join(map(str, job))}.jsonl"
            process = self.context.Process(target=work, args=(job, self.options, path), daemon=True)
            process.start()
            self.running[job] = Running(process, path, time.time())

    def has_ended(self, job: Job) -> bool:
        process, _, started = self.running[job]
        return not process.is_alive() or time.time() - started > float(self.options.seconds)

    def finish(self, job: Job, why: str = "") -> None:
        process, path, started = self.running.pop(job)
        seconds = time.time() - started
        if process.is_alive():
            why = why or f"timed out after {seconds:.0f} s"
            process.kill()
        elif process.exitcode != 0:
            why = f"ended by signal {-process.exitcode}"
        process.join(2)
        lines = path.read_text().splitlines() if path.exists() else []
        self.tell(job, [json.loads(line) for line in lines if line.endswith("}")], why)

    def tell(self, job: Job, found: list[dict[str, Any]], why: str) -> None:
        """A row for each length; those that there is nothing of have the reason."""
        self.done += 1
        errors = [row["error"] for row in found if "T" not in row]
        of = {row["T"]: row for row in found if "T" in row}
        for T in self.options.lengths:
            row = of.get(T, {"T": T, "ok": False, "error": (errors or [why or "nothing was told"])[0]})
            self.rows.append({**job._asdict(), **row})
            if not row["ok"]:
                print(f"{job.title} T = {T}: {text_of(row)}", flush=True)

    def progress(self) -> None:
        now = time.time()
        running = ", ".join(f"{job.title} {now - own.started:.0f} s" for job, own in list(self.running.items())[:4])
        wrong = sum(not row["ok"] for row in self.rows)
        print(f"{self.done} of {self.total} jobs, {wrong} of {len(self.rows)} rows not ok; {running} ...", flush=True)
        self.write()

    def write(self) -> None:
        if self.options.out:
            # JSON has no infinity.
            text = json.dumps(self.rows).replace("Infinity", "1e999")
            self.options.out.write_text(f"{text}\n")


def text_of(row: dict[str, Any]) -> str:
    if "error" in row:
        return row["error"]
    beyond = ", ".join(f"{name} {ratio:.1e}" for name, ratio in row["beyond"].items())
    return f"beyond: {beyond}; worst {row['worst']}, {row['share']:.2f} of its tolerance"


def table(rows: list[dict[str, Any]], dtypes: list[str]) -> None:
    print(f"| rule | {' | '.join(f'{dtype}: ok, worst output, its ratio and share of the tolerance' for dtype in dtypes)} |")
    print(f"| --- |{' --- |' * len(dtypes)}")
    for rule in dict.fromkeys(row["rule"] for row in rows):
        cells = []
        for dtype in dtypes:
            own = [row for row in rows if (row["rule"], row["dtype"]) == (rule, dtype)]
            known = [row for row in own if "share" in row]
            cell = f"{sum(row['ok'] for row in own)} of {len(own)}"
            if known:
                worst = max(known, key=lambda row: row["share"])
                cell += f", {worst['worst']} {worst['ratio']:.1e}, {worst['share']:.2f} (K {worst['size']}, T {worst['T']})"
            cells.append(cell)
        print(f"| {rule} | {' | '.join(cells)} |")


def read_options() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", default="bf16,f16,f32", type=lambda text: text.split(","))
    parser.add_argument("--sizes", default="64,128", type=lambda text: text.split(","))
    parser.add_argument("--lengths", default="1,65,333,4096", type=lambda text: [int(T) for T in text.split(",")])
    parser.add_argument("--only", default=".", help="of the rules")
    parser.add_argument("--jobs", type=int, default=max(1, cores // 2))
    parser.add_argument("--references", type=int, default=3, help="at a time: each may take 20 GB of 4096 tokens")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--node", default="node")
    parser.add_argument("--packages", type=Path, help="folder of compiled packages")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    options = read_options()
    end = time.time() + 60 * options.minutes
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as temporary:
        options.packages = options.packages or Path(temporary) / "packages"
        options.packages.mkdir(parents=True, exist_ok=True)
        options.references_in = Path(temporary) / "references"
        options.references_in.mkdir()
        started = time.time()
        rules = [path for path in RULES if re.search(options.only, path.stem)]
        wanted = [(path, dtype, size) for path in rules for size in options.sizes for dtype in options.dtypes]
        with ThreadPoolExecutor(cores) as pool:
            failed = list(pool.map(lambda one: compile_package(*one, options), wanted))
        print(f"{len(wanted)} packages compiled in {time.time() - started:.0f} s", flush=True)
        whys = {Job(path.stem, size, dtype): why for (path, dtype, size), why in zip(wanted, failed) if why}
        groups = [
            [job for dtype in (None, *options.dtypes) if (job := Job(path.stem, size, dtype)) not in whys]
            for path in rules
            for size in options.sizes
        ]

        def text(group: list[Job]) -> int:
            files = (folder_of(options.packages, *group[-1][::2], group[-1].size) / "cuda").glob("*.cu")
            return sum(file.stat().st_size for file in files)

        runner = Runner(sorted(groups, key=text, reverse=True), options, end)
        for job, why in whys.items():
            runner.tell(job, [], why)
        runner.run()
    runner.write()
    rows = [row for row in runner.rows if row["dtype"]]
    table(rows, options.dtypes)
    longest = sorted((row for row in runner.rows if "seconds" in row), key=lambda row: -row["seconds"])[:3]
    for row in longest:
        print(f"longest: {Job(row['rule'], row['size'], row['dtype']).title} T = {row['T']}, {row['seconds']:.1f} s")
    most = max((row.get("bytes", 0) for row in runner.rows), default=0)
    print(f"largest reference: {most / 1e9:.1f} GB")
    print(f"{sum(row['ok'] for row in rows)} of {len(rows)} ok, {time.time() - started:.0f} s")
    sys.exit(0 if all(row["ok"] for row in rows) else 1)


if __name__ == "__main__":
    main()
