"""Key files: 0600 or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from wayside.runtime.errors import IdentityError, WaysideError
from wayside.runtime.keyfile import new_key, read_certificate, read_key, write_certificate


def test_a_new_key_is_read_back_and_only_its_owner_may(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    key = new_key(path)
    assert read_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_new_keys_differ(tmp_path: Path) -> None:
    assert new_key(tmp_path / "a").seed != new_key(tmp_path / "b").seed


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_key_that_others_may_touch_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.key"
    new_key(path)
    path.chmod(mode)
    with pytest.raises(IdentityError) as caught:
        read_key(path)
    assert (caught.value.code, caught.value.exit_code) == ("WS-6002", 6)
    assert caught.value.hint == f"chmod 600 {path}"


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    key = new_key(path)
    with pytest.raises(WaysideError, match="cannot be written"):
        new_key(path)
    assert read_key(path) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wayside-key-1",
        "wayside-key-2 AAAA",
        "wayside-key-1 AAAA",
        "wayside-key-1 !!",
        "\xff\xfe",
    ],
)
def test_what_is_no_key_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="is not a key file"):
        read_key(path)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(WaysideError) as caught:
        read_key(tmp_path / "a.key")
    assert caught.value.hint == f"wayside key new {tmp_path}/a.key"


def test_a_key_for_a_folder_that_is_missing_says_how_to_make_that(tmp_path: Path) -> None:
    with pytest.raises(WaysideError) as caught:
        new_key(tmp_path / "etc" / "a.key")
    assert caught.value.hint == f"mkdir -p {tmp_path}/etc"


def test_a_certificate_is_read_back_and_may_be_public(tmp_path: Path) -> None:
    path = tmp_path / "a.cert"
    write_certificate(path, b"\x00\x01")
    path.chmod(0o644)
    assert read_certificate(path) == b"\x00\x01"
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="is not a key file"):
        read_key(path)
