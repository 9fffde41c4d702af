"""Many worlds on many cores: seeds in, results out, in the order of the seeds."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from itertools import repeat

from .world import Result, World, world_of

CHUNK = 4
"""Seeds that a process takes at a time: a second of work, so that none is idle for long."""


def run_one(seed: int, world: str) -> Result:
    """Run one seed; `world` empty: the world that this seed is for.

    An exception out of a machine, or out of the simulator, is a result too: check `exception`.
    """
    name = world or world_of(seed)
    try:
        return World(name, seed).run()
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        line = f"{where.tb_frame.f_code.co_qualname}:{where.tb_lineno}" if where else ""
        why = f"{type(error).__name__}: {error} in {line}"
        return Result(name, seed, "", "exception", why, (), 0.0, 0, 0, 0, 0)


def run_many(seeds: Sequence[int], world: str = "", jobs: int | None = None) -> Iterator[Result]:
    """Run seeds on `jobs` cores (None: all that there are)."""
    jobs = jobs or len(os.sched_getaffinity(0))
    if jobs == 1 or len(seeds) == 1:
        yield from map(run_one, seeds, repeat(world))
        return
    # spawn: what the parent has imported or opened is nothing to the children.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs) as pool:
        yield from pool.imap(_run_pair, zip(seeds, repeat(world)), CHUNK)


def _run_pair(pair: tuple[int, str]) -> Result:
    return run_one(*pair)
