"""Runs the tests of several packages, TESTS FOLDER..., each in a process of its own.

The processes are forks of this one, which has imported torch: that takes as long as the tests.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch  # noqa: F401

tests, *folders = sys.argv[1:]


def run(folder: str) -> int:
    options = ["-q", "--tb=short", "--show-capture=no", "-p", "no:cacheprovider"]
    return pytest.main([*options, f"{folder}/{tests}"])


if __name__ == "__main__":
    # A process that dies ends this one too, with an error; a multiprocessing.Pool would wait for it.
    context = multiprocessing.get_context("fork")
    codes = []
    for pair in (folders[i : i + 2] for i in range(0, len(folders), 2)):
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            codes += pool.map(run, pair)
    sys.exit(max(codes))
