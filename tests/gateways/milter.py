"""The mail server's side of sendmail's milter protocol, as simple as possible.

A packet is a length of four bytes in network order, a command of one byte and its data. See
`libmilter/docs` and `mfdef.h` of sendmail.
"""

from __future__ import annotations

import socket
import struct

#: Answers of a filter at the end of a mail, by the byte on the wire.
VERDICTS = {b"a": "taken", b"c": "taken", b"r": "refused", b"t": "put off", b"d": "dropped"}
_CHANGES = frozenset({b"h", b"i", b"m", b"p", b"q"})
_CHUNK_BYTES = 65_535
#: Steps that the filter may ask to omit, by the bit of the request; other steps may be omitted as
#: well.
_LEFT_OUT = {0x01: b"C", 0x02: b"H", 0x04: b"M", 0x08: b"R", 0x40: b"N", 0x100: b"U", 0x200: b"T"}
_ACTIONS = 0x1FF
TIMEOUT_S = 60


def asked(path: str, mail: bytes) -> str:
    """Show a mail to the filter at the socket `path`, and return the filter's verdict.

    `held` is a mail that the mail server has to keep for an operator.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(path)
        return _Conversation(sock).mail(mail)


class _Conversation:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def mail(self, mail: bytes) -> str:
        offer = struct.pack(">3I", 6, _ACTIONS, sum(_LEFT_OUT))
        _, _, wanted = struct.unpack(">3I", self._ask(b"O", offer))
        left_out = {command for bit, command in _LEFT_OUT.items() if wanted & bit}
        steps = [
            (b"C", b"localhost\0" + b"4" + struct.pack(">H", 25) + b"192.0.2.1\0"),
            (b"H", b"localhost\0"),
            (b"M", b"<sender@example.org>\0"),
            (b"R", b"<receiver@example.org>\0"),
        ]
        header, _, body = mail.replace(b"\r\n", b"\n").partition(b"\n\n")
        for line in header.replace(b"\n\t", b"\t").replace(b"\n ", b" ").split(b"\n"):
            name, _, value = line.partition(b": ")
            steps.append((b"L", name + b"\0" + value + b"\0"))
        steps.append((b"N", b""))
        lines = body.replace(b"\n", b"\r\n")
        chunks = range(0, len(lines), _CHUNK_BYTES)
        steps += [(b"B", lines[at : at + _CHUNK_BYTES]) for at in chunks]
        for command, data in [step for step in steps if step[0] not in left_out]:
            self._send(command, data)
            kind, _ = self._receive()
            if kind != b"c":
                return VERDICTS[kind]
        self._send(b"E", b"")
        kinds = [self._receive()[0]]
        while kinds[-1] in _CHANGES:
            kinds.append(self._receive()[0])
        return "held" if b"q" in kinds else VERDICTS[kinds[-1]]

    def _ask(self, command: bytes, data: bytes) -> bytes:
        self._send(command, data)
        kind, answer = self._receive()
        assert kind == command
        return answer

    def _send(self, command: bytes, data: bytes) -> None:
        self._socket.sendall(struct.pack(">I", 1 + len(data)) + command + data)

    def _receive(self) -> tuple[bytes, bytes]:
        (length,) = struct.unpack(">I", self._exactly(4))
        packet = self._exactly(length)
        return packet[:1], packet[1:]

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._socket.recv(count - len(parts))
            assert part, "the filter has closed"
            parts += part
        return bytes(parts)
