import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.look_up import packed_key


@pytest.mark.parametrize(
    ("transport", "a", "b", "expected"),
    [
        (Transport.UDP, "10.1.0.2:1", "10.2.0.1:443", "110000000a010002000100000a02000101bb0000"),
        (Transport.MPTCP, "10.1.0.2:1", "10.2.0.1:2", "060000000a010002000100000a02000100020000"),
        (
            Transport.TCP,
            "[fd00::2]:1",
            "[fd00::1]:2",
            "06000000fd00000000000000000000000000000200010000"
            "fd00000000000000000000000000000100020000",
        ),
    ],
)
def test_a_key_has_each_part_in_registers_of_four_bytes(
    transport: Transport, a: str, b: str, expected: str
) -> None:
    flow = Flow(transport, Address.parse(a), Address.parse(b))
    assert packed_key(flow).hex() == expected
