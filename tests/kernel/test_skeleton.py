from wayside.kernel.nft import GATE_MAPS
from wayside.kernel.skeleton import PUNCHES, gate_skeleton, host_skeleton


def test_the_same_table_has_the_same_name_and_another_has_another() -> None:
    names = [
        gate_skeleton(["in0"], ["out0"], 120.0, 4747).name,
        gate_skeleton(["in0"], ["out0"], 60.0, 4747).name,
        gate_skeleton(["in1"], ["out0"], 120.0, 4747).name,
        gate_skeleton(["in0"], ["out0"], 120.0, 4748).name,
        host_skeleton("fd77:6179:7364::/48", 4747).name,
        host_skeleton("fd78:6179:7364::/48", 4747).name,
    ]
    assert len(set(names)) == len(names)
    assert gate_skeleton(["in0"], ["out0"], 120.0, 4747).name == names[0]


def test_only_who_hides_hosts_drops_punches_and_before_all_else() -> None:
    """R-12.6: none passes by a rule that is in force, and no kernel of ours answers one."""
    plain = gate_skeleton(["in0"], ["out0"], 120.0, 4747)
    hides = gate_skeleton(["in0"], ["out0"], 120.0, 4747, hides=True)
    assert plain.name != hides.name
    (line,) = set(hides.first.splitlines()) - set(plain.first.splitlines())
    assert "chain admit" in line  # where the rules that let in come later
    begins = b"CSP\x01\0\0\0\0".hex()
    assert f"udp length {8 + 32} @th,64,64 0x{begins} counter drop" in line
    assert "tcp urgptr 0x4353 tcp flags & urg == 0 counter drop" in line


def test_a_host_drops_punches_before_any_rule_lets_them_in() -> None:
    """R-12.6, R-12.8: what comes in meets that first; what goes out does not."""
    lines = host_skeleton("fd77:6179:7364::/48", 4747).first.splitlines()
    (entering,) = [line for line in lines if PUNCHES in line]
    assert "chain in {" in entering


def test_no_line_flushes_or_names_a_table_of_somebody_else() -> None:
    for skeleton in (
        host_skeleton("fd77:6179:7364::/48", 4747),
        gate_skeleton(["in0"], ["out0"], 120.0, 4747),
    ):
        parts = [part for _, part in skeleton.parts]
        text = "".join(one.first + one.then for one in (skeleton, *parts))
        assert "flush" not in text
        lines = [line for line in text.splitlines() if line.startswith(("table", "add"))]
        assert lines
        assert all("inet wayside" in line for line in lines)


def test_a_gate_that_neither_stops_nor_rewrites_has_neither_hooks_nor_maps_for_it() -> None:
    gate = gate_skeleton(["in0"], ["out0"], 120.0, 4747)
    assert gate.first.count("hook") == 2
    assert "map" not in gate.first
    needed = {name: part for names, part in gate.parts for name in names}
    assert set(needed) == {"blocked4", "blocked6", *GATE_MAPS}
    assert "hook prerouting priority -310" in needed["blocked6"].first
    assert "hook postrouting" in needed["renewed4to"].first


def test_a_gate_has_a_lane_for_bare_opens_one_for_shown_ones_and_one_for_the_rest() -> None:
    """R-7.9: in both families, whoever it is addressed to; the order is that of the rules."""
    text = gate_skeleton(["in0"], ["out0"], 120.0, 4747).then
    for family, here in ((4, "127.0.0.1"), (6, "[::1]")):
        ip = "ip" if family == 4 else "ip6"
        lanes = [line for line in text.splitlines() if f"lanes{family} meta" in line]
        ways = [line for line in lanes if "tproxy" in line]
        assert [line.split("tproxy ")[1] for line in ways] == [
            *(f"{ip} to {here}:{port} accept" for port in (4748, 4749, 4750)),
            f"{ip} to :4747 accept",
        ]
        assert ["0x0101" in line for line in ways] == [True, False, False, False]
        assert ["0x0100" in line for line in ways] == [False, True, True, False]
        assert sum("limit rate over" in line and line.endswith("drop") for line in lanes) == 3
        assert text.count(f"goto lanes{family}") == 2
