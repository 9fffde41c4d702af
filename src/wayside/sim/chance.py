"""Randomness that a seed fixes: every purpose draws from a stream of its own.

Streams are named. So taking one fault out of a schedule does not change what another link loses,
and the shrinker compares like with like.
"""

from __future__ import annotations

from random import Random


class Chance:
    """The streams of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, purpose: str) -> Random:
        """A stream that only this purpose draws from; the same whenever the seed is."""
        return Random(f"wayside {self.seed} {purpose}")  # noqa: S311 - it is meant to be foreseen
