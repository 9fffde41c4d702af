"""Who is meant by a name: host.toml, or the rendezvous of its domain if the domain signed it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.core.crypto import SigningKey
from wayside.core.effects import DeliverData, ReportOpened, ReportRefused
from wayside.core.identity import PeerIdentity, key_text, sign_certificate
from wayside.core.messages import Code
from wayside.core.rule import Cid
from wayside.runtime.asking import Asking
from wayside.runtime.config import Peer, load_host
from wayside.runtime.directory import Directory
from wayside.runtime.enrolment import Answer, Outcome
from wayside.runtime.errors import NameUnknown, NoAnswer, Refused, WaysideError
from wayside.runtime.store import Store

DOMAIN, HOST, HOME = (SigningKey(bytes([number]) * 32) for number in range(3))
AT = Address.parse("10.9.0.1:4747")
SOON_S = 3600


class Rendezvous:
    """What a rendezvous says to a question, and what was asked of it."""

    def __init__(self, answer: Answer | int | None) -> None:
        self.asking = Asking()
        self.answer = answer
        self.questions: list[str] = []
        self.closed: list[Cid] = []
        self.way = True
        self.directory: Directory | None = None

    def ask(self, cid: Cid, peer: PeerIdentity, service: str, at: Address, data: bytes) -> bool:
        assert (peer.key, service, at) == (HOME.public, "name", AT)
        if self.way:
            self.questions.append(data.decode())
            asyncio.get_running_loop().call_soon(self._say, cid)
        return self.way

    def _say(self, cid: Cid) -> None:
        wire = Flow(Transport.NONE, Address.parse("10.1.0.2"), AT.with_port(0))
        if isinstance(self.answer, int):
            code = self.answer
            self.asking.refused(ReportRefused(cid, "r", "name", code, "no", "r.lab"), "none")
            return
        self.asking.opened(ReportOpened(cid, "r", "name", wire, wire, 120.0))
        if self.answer is not None:
            assert self.directory is not None
            self.directory.answered(DeliverData(cid, wire, self.answer.encode()))


def certificate(
    name: str = "files.lab",
    key: bytes = HOST.public,
    by: SigningKey = DOMAIN,
    valid_s: int = SOON_S,
) -> bytes:
    return sign_certificate(by, name, key, int(time.time()) + valid_s)


def given(**more: object) -> Answer:
    return Answer(Outcome.GIVEN, certificate(**more))  # type: ignore[arg-type]


def found(
    tmp_path: Path,
    answer: Answer | int | None,
    *names: str,
    way: bool = True,
    book: Store | None = None,
) -> tuple[Rendezvous, list[Peer]]:
    """Look for names, one after the other."""
    path = tmp_path / "host.toml"
    path.write_text(
        f'[domains]\nlab = {{ key = "{key_text(DOMAIN.public)}", rendezvous = "10.9.0.1",'
        f' rendezvous_key = "{key_text(HOME.public)}" }}\n'
        f'[peers."known.lab"]\nkey = "{key_text(HOME.public)}"\naddresses = ["10.3.0.2"]\n'
    )
    there = Rendezvous(answer)
    there.way = way
    config = load_host(path, {}, {})
    directory = Directory(config, there.asking, there.ask, there.closed.append, book)
    there.directory = directory

    async def look() -> list[Peer]:
        return [await directory.find(name) for name in names or ("files.lab",)]

    return there, asyncio.run(look())


def test_a_name_that_is_configured_is_asked_of_nobody(tmp_path: Path) -> None:
    there, peers = found(tmp_path, None, "known.lab", key_text(HOME.public))
    assert there.questions == []
    assert [peer.identity.name for peer in peers] == ["known.lab"] * 2


def test_a_name_is_looked_up_once_and_its_host_is_asked_for_at_the_rendezvous(
    tmp_path: Path,
) -> None:
    there, peers = found(tmp_path, given(), "files.lab", "files.lab", key_text(HOST.public))
    assert there.questions == ["files.lab"]
    assert len(there.closed) == 1
    assert [peer.identity.key for peer in peers] == [HOST.public] * 3
    assert peers[0].identity.name == "files.lab"
    assert peers[0].addresses == (AT,)


def test_a_name_that_is_known_does_not_wait_for_what_others_ask(tmp_path: Path) -> None:
    """The rendezvous may be down: each question then takes its five seconds."""
    there, _ = found(tmp_path, given())

    async def look() -> Peer:
        assert there.directory is not None
        turn = there.directory._turns[HOME.public] = asyncio.Lock()
        async with turn, asyncio.timeout(5):
            return await there.directory.find("files.lab")

    assert asyncio.run(look()).identity.key == HOST.public
    assert there.questions == ["files.lab"]


def test_a_name_that_was_looked_up_is_known_to_a_restarted_agent(tmp_path: Path) -> None:
    """R-6.5: an application that has its address connects without asking for the name again."""
    book = Store(tmp_path, "host")
    found(tmp_path, given(), book=book)
    there, peers = found(tmp_path, None, key_text(HOST.public), "files.lab", book=book)
    assert there.questions == []
    assert [(peer.identity.name, peer.addresses) for peer in peers] == [("files.lab", (AT,))] * 2


def test_of_what_was_kept_nothing_is_believed_that_would_not_be_now(tmp_path: Path) -> None:
    """R-9.3: over meanwhile, of another name or signer, of a domain without rendezvous, rubbish."""
    book = Store(tmp_path, "host")
    for name, kept in {
        "over.lab": certificate("over.lab", valid_s=-1),
        "files.lab": certificate("other.lab"),
        "mine.lab": certificate("mine.lab", by=HOST),
        "files.else": certificate("files.else"),
        "torn.lab": certificate("torn.lab")[:-1],
    }.items():
        book.learn(name, kept)
    with pytest.raises(NameUnknown):
        found(tmp_path, None, key_text(HOST.public), book=book)
    assert book.learnt() == []


@pytest.mark.parametrize(
    "answer",
    [
        given(name="other.lab"),
        given(by=HOST),
        given(valid_s=-10),
        Answer(Outcome.GIVEN, b"nothing of the kind"),
        Answer(Outcome.NOT_GIVEN),
        int(Code.NO_ROUTE),
        int(Code.NO_SERVICE),
    ],
    ids=["another name", "another signer", "over", "no certificate", "not given", "8", "2"],
)
def test_what_the_domain_has_not_signed_for_this_name_is_not_believed(
    tmp_path: Path, answer: Answer | int
) -> None:
    """R-9.3, R-10.6."""
    with pytest.raises(NameUnknown) as unknown:
        found(tmp_path, answer)
    assert unknown.value.exit_code == 4


def test_a_refusal_and_silence_are_not_said_to_be_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        found(tmp_path, int(Code.POLICY))
    with pytest.raises(NoAnswer):
        found(tmp_path, 0)
    with pytest.raises(NoAnswer, match="nothing came back"):
        found(tmp_path, None)
    with pytest.raises(WaysideError, match="at the moment"):
        found(tmp_path, Answer(Outcome.STORE_AWAY))
    with pytest.raises(NameUnknown, match="cannot be looked up"):
        found(tmp_path, given(), way=False)


def test_a_certificate_that_is_over_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.time()]
    monkeypatch.setattr("wayside.runtime.directory.time.time", lambda: now[0])
    answer = given(valid_s=SOON_S)
    there, _ = found(tmp_path, answer)
    assert there.directory is not None
    now[0] += SOON_S + 10
    with pytest.raises(NameUnknown):
        asyncio.run(there.directory.find("files.lab"))
    assert there.questions == ["files.lab"] * 2


def test_a_domain_without_a_rendezvous_is_asked_of_nobody(tmp_path: Path) -> None:
    with pytest.raises(NameUnknown, match="no address is known"):
        found(tmp_path, given(), "files.elsewhere")
