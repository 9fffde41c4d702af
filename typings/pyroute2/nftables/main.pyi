from types import TracebackType
from typing import Any, Self

class NFTables:
    def __init__(self, *, nfgen_family: int) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def rule(
        self,
        command: str,
        *,
        table: str,
        chain: str,
        expressions: tuple[list[dict[str, Any]], ...],
    ) -> Any: ...
