"""Writes the test vectors, for those who implement the protocol in another language.

    cd tests && PYTHONPATH=../src python -m vectors.generate

The machines of core make them; whatever would be random follows from a name (world.py), so the
same code always writes the same bytes, and a test holds the files against it. docs/spec.md says
what the fields mean; hex throughout, and README.md beside the files explains each of them.
"""

from __future__ import annotations

import json
from pathlib import Path

from vectors.describe import Json
from vectors.handshake import handshakes
from vectors.refused import refused
from vectors.samples import samples

FOLDER = Path(__file__).resolve().parent


def documents() -> dict[str, Json]:
    """Every document by the name of its file."""
    return {**samples(), **handshakes(), **refused()}


def written(document: Json) -> str:
    """The text of a file."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all of them."""
    for name, document in documents().items():
        (FOLDER / f"{name}.json").write_text(written(document))


if __name__ == "__main__":
    main()
