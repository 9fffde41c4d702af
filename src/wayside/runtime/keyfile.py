"""Key files and certificate files: one line of text each.

    wayside-key-1 <base64 of the 32-byte seed>                mode 0600, never anything more
    wayside-certificate-1 <base64 of the encoded certificate>  no secret

The mode is checked on the opened file, not on its name, so nobody can swap it in between.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from pathlib import Path

from wayside.core.crypto import SigningKey

from .errors import IdentityError, WaysideError

_KEY_TAG = "wayside-key-1"
_CERTIFICATE_TAG = "wayside-certificate-1"
_FILE_BYTES_MAX = 4096


def read_key(path: Path) -> SigningKey:
    """The secret key in a file.

    Raises IdentityError when others may read the file or it holds no key, and WaysideError
    (WS-1006) when it cannot be read at all.
    """
    seed = _read(path, _KEY_TAG, secret=True)
    if len(seed) != 32:
        raise _not_a(_KEY_TAG, path)
    return SigningKey(seed)


def new_key(path: Path) -> SigningKey:
    """Make a key from the system's randomness and write it to a new file of mode 0600.

    Raises WaysideError (WS-1006) when the file is there already or cannot be written.
    """
    seed = secrets.token_bytes(32)
    _write(path, f"{_KEY_TAG} {base64.b64encode(seed).decode()}\n", 0o600)
    return SigningKey(seed)


def read_certificate(path: Path) -> bytes:
    """The encoded certificate in a file. Raises as `read_key` does, but for the mode."""
    return _read(path, _CERTIFICATE_TAG, secret=False)


def write_certificate(path: Path, certificate: bytes) -> None:
    """Write an encoded certificate to a new file. Raises WaysideError (WS-1006)."""
    _write(path, certificate_line(certificate), 0o644)


def certificate_line(certificate: bytes) -> str:
    """What a certificate file holds."""
    return f"{_CERTIFICATE_TAG} {base64.b64encode(certificate).decode()}\n"


def _read(path: Path, tag: str, *, secret: bool) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(_FILE_BYTES_MAX)
    except OSError as error:
        hint = f"wayside key new {path}" if secret and isinstance(error, FileNotFoundError) else ""
        raise WaysideError(
            f"{path} cannot be read", why=error.strerror or str(error), hint=hint, code="WS-1006"
        ) from error
    if secret and mode & 0o077:
        raise IdentityError(
            f"{path} holds a secret key, and others may read it",
            why=f"its mode is {mode:04o}, not 0600",
            hint=f"chmod 600 {path}",
            code="WS-6002",
        )
    words = raw.decode("ascii", errors="replace").split()
    if len(words) != 2 or words[0] != tag:
        raise _not_a(tag, path)
    try:
        return base64.b64decode(words[1], validate=True)
    except binascii.Error as error:
        raise _not_a(tag, path) from error


def _write(path: Path, line: str, mode: int) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(file, "w") as opened:
            opened.write(line)
    except OSError as error:
        hint = "choose another name; a key is never overwritten" if path.exists() else ""
        hint = hint if path.parent.exists() else f"mkdir -p {path.parent}"
        raise WaysideError(
            f"{path} cannot be written", why=error.strerror or str(error), hint=hint, code="WS-1006"
        ) from error


def _not_a(tag: str, path: Path) -> IdentityError:
    noun = "key" if tag == _KEY_TAG else "certificate"
    return IdentityError(
        f"{path} is not a {noun} file",
        why=f"one line was expected: {tag} and base64",
        hint="wayside explain WS-6003",
        code="WS-6003",
    )
