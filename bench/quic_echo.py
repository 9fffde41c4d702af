"""aioquic as it comes from PyPI: a server that says back, and a client that notes silences.

    python quic_echo.py serve PORT FOLDER       makes its certificate in FOLDER
    python quic_echo.py ask ADDRESS PORT

The client writes 16 bytes to one stream every 4 ms and prints as the receivers of flowing.py do
when nothing came back for a while. Neither knows of wayside, nor of any move. aioquic is not among
the packages of this repository: `quic_install.py` puts it where PYTHONPATH says.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flowing import Receiver

WRITE_EVERY_S = 0.004
THRESHOLD_S = 0.008
NAME = "quic"


def configuration(is_client: bool) -> Any:
    """Of aioquic, with its defaults."""
    made = import_module("aioquic.quic.configuration").QuicConfiguration(is_client=is_client)
    made.verify_mode = ssl.CERT_NONE
    return made


async def serve(port: int, folder: Path) -> None:
    """Say back what comes, for ever."""
    made = configuration(False)
    made.load_cert_chain(*certificate(folder))

    echoing: set[asyncio.Future[None]] = set()

    def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(echo(reader, writer))
        echoing.add(task)
        task.add_done_callback(echoing.discard)

    quic = import_module("aioquic.asyncio")
    await quic.serve("::", port, configuration=made, stream_handler=on_stream)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One stream."""
    while data := await reader.read(1 << 16):
        writer.write(data)


async def ask(address: str, port: int) -> None:
    """One connection with one stream, for as long as it lives."""
    quic = import_module("aioquic.asyncio")
    async with quic.connect(address, port, configuration=configuration(True)) as client:
        reader, writer = await client.create_stream()
        writing = asyncio.ensure_future(write(writer))
        receiver = Receiver(NAME, THRESHOLD_S)
        while await reader.read(1 << 16):
            receiver.came()
        writing.cancel()


async def write(writer: asyncio.StreamWriter) -> None:
    """At the pace."""
    while True:
        writer.write(bytes(16))
        await asyncio.sleep(WRITE_EVERY_S)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for nobody in particular, and its key."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, SHA256())
    )
    files = folder / "quic.crt", folder / "quic.key"
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files[1].write_bytes(private)
    return files


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2]), Path(sys.argv[3])))
    else:
        asyncio.run(ask(sys.argv[2], int(sys.argv[3])))
