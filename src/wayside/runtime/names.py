"""Service names for ports: what an unmodified program means when it connects to a port.

The two ends of a connection must speak of the same service without a file that both share, so the
table is short and fixed; a port without a name is its number.
"""

from __future__ import annotations

PORTS: dict[str, int] = {
    "ftp": 21,
    "ssh": 22,
    "smtp": 25,
    "domain": 53,
    "http": 80,
    "ntp": 123,
    "imap": 143,
    "ldap": 389,
    "https": 443,
    "submission": 587,
    "imaps": 993,
    "nfs": 2049,
    "mysql": 3306,
    "rdp": 3389,
    "iperf3": 5201,
    "postgresql": 5432,
    "redis": 6379,
    "http-alt": 8080,
    "git": 9418,
}

_NAMES = {port: name for name, port in PORTS.items()}


def service_of(port: int) -> str:
    """The service that a port stands for."""
    return _NAMES.get(port, str(port))


def port_of(service: str) -> int:
    """The port of a service; 0 when it has no usual one."""
    if service.isascii() and service.isdigit() and 0 < int(service) <= 0xFFFF:
        return int(service)
    return PORTS.get(service, 0)
