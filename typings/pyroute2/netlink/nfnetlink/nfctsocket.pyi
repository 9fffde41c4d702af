from typing import Any

class NFCTAttrTuple:
    def __init__(
        self,
        family: int = ...,
        saddr: str | None = None,
        daddr: str | None = None,
        proto: int | None = None,
        sport: int | None = None,
        dport: int | None = None,
    ) -> None: ...

class NFCTSocket:
    def __init__(self, nfgen_family: int = ...) -> None: ...
    def entry(self, cmd: str, *, tuple_reply: NFCTAttrTuple) -> list[Any]: ...
