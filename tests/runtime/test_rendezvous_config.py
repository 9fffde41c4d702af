"""rendezvous.toml: who may register, which store, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from wayside.core.crypto import SigningKey
from wayside.core.identity import key_text
from wayside.runtime.enrolment import domain_of_key
from wayside.runtime.errors import ConfigError
from wayside.runtime.locations_redis import RedisLocations
from wayside.runtime.locations_sqlite import SqliteLocations
from wayside.runtime.rendezvous import open_store
from wayside.runtime.rendezvous_config import RendezvousConfig, load_rendezvous

KEY = SigningKey(bytes(32)).public
DOMAIN = f'[domains]\nlab = "{key_text(KEY)}"\n'


def rendezvous(tmp_path: Path, text: str) -> RendezvousConfig:
    path = tmp_path / "rendezvous.toml"
    path.write_text(text + "\n" + DOMAIN)
    return load_rendezvous(path, {}, {})


def test_everything_in_a_rendezvous_file_arrives(tmp_path: Path) -> None:
    config = rendezvous(
        tmp_path,
        f'name = "meet.lab"\nlisten = 4800\naddresses = ["203.0.113.9", "[2001:db8::9]:4747"]\n'
        f'register = ["*.lab", "{key_text(KEY)}"]\ndomain_key = "lab.key"\n'
        'certificate = "meet.certificate"\nstore = "redis://a:1,b:2, rediss://c:3"',
    )
    assert (config.name, config.listen, config.domains) == ("meet.lab", 4800, {"lab": KEY})
    assert [str(address) for address in config.addresses] == [
        "203.0.113.9:4800",
        "[2001:db8::9]:4747",
    ]
    assert [pattern.text for pattern in config.register] == ["*.lab", key_text(KEY)]
    assert config.domain_key == tmp_path / "lab.key"
    assert config.paths.certificate == tmp_path / "meet.certificate"
    assert config.cluster == ("redis://a:1", "redis://b:2", "rediss://c:3")


def test_by_default_the_names_of_its_domains_register_and_sqlite_keeps_them(tmp_path: Path) -> None:
    config = rendezvous(tmp_path, "")
    assert [pattern.text for pattern in config.register] == ["*.lab"]
    assert config.cluster == ()


def test_the_store_is_the_one_that_is_named(tmp_path: Path) -> None:
    assert isinstance(open_store(rendezvous(tmp_path, 'state = "."')), SqliteLocations)
    assert (tmp_path / "locations.sqlite").exists()
    cluster = rendezvous(tmp_path, 'store = "redis://a:1,b:2"')
    assert isinstance(open_store(cluster), RedisLocations)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('store = "etcd"', "rendezvous.toml:1: 'etcd' is no store"),
        ('store = "redis://a,,b"', "rendezvous.toml:1: 'redis://a,,b' names a node without a name"),
        ('register = ["files"]', "rendezvous.toml:1: 'files' is not a name"),
        ('adresses = ["10.0.0.1"]', "rendezvous.toml:1: unknown key `adresses`"),
        ('addresses = ["meet.lab"]', "rendezvous.toml:1: 'meet.lab' does not appear to be"),
        (f"addresses = {['10.0.0.1'] * 5}", "rendezvous.toml:1: 4 addresses are the most"),
    ],
)
def test_every_mistake_is_one_message_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        rendezvous(tmp_path, text)
    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(message)


def test_without_a_domain_it_has_to_say_who_registers(tmp_path: Path) -> None:
    path = tmp_path / "rendezvous.toml"
    path.write_text("")
    with pytest.raises(ConfigError, match="nobody may register here"):
        load_rendezvous(path, {}, {})


def test_the_key_that_signs_has_to_be_that_of_a_domain() -> None:
    assert domain_of_key(KEY, {"other": bytes(32), "lab": KEY}) == "lab"
    with pytest.raises(ConfigError, match="`domain_key` is not the key of a domain"):
        domain_of_key(KEY, {"other": bytes(32)})
