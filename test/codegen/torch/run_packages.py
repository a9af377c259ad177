"""Runs the tests of several packages, TESTS FOLDER..., each in a process of its own.

The processes are forks of this one, which has imported torch: that takes as long as the tests.
"""

import multiprocessing
import sys

import pytest
import torch  # noqa: F401

tests, *folders = sys.argv[1:]


def run(folder: str) -> int:
    options = ["-q", "--tb=short", "--show-capture=no", "-p", "no:cacheprovider"]
    return pytest.main([*options, f"{folder}/{tests}"])


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        sys.exit(max(pool.map(run, folders, chunksize=1)))
