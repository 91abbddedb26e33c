"""A peer that a case plays by hand, where no real client can be made to say what is to be tried. Knows BEP 3, 6 and 10."""

import socket
import struct
import time

from lab import Failed
from torrents import _decode_at, bencode

CHOKE, UNCHOKE, INTERESTED, HAVE, BITFIELD, REQUEST, PIECE = 0, 1, 2, 4, 5, 6, 7
HAVE_ALL, HAVE_NONE, EXTENDED = 14, 15, 20


class Wire:
    """Listens at an address of its own, and takes one connection of dhtget's."""

    def __init__(self, lab, info_hash):
        self.ip, self.info_hash = lab.address(), bytes.fromhex(info_hash)
        self._listener = socket.create_server((self.ip, 6881))
        self.address = f"{self.ip}:6881"
        self._socket = self._pending = None
        # The ids under which dhtget takes extension messages, once it has said.
        self.ids = {}

    def accept(self, seconds, **said):
        """Shakes hands and says `said` in the extended handshake."""
        self._listener.settimeout(seconds)
        try:
            self._socket, _ = self._listener.accept()
        except TimeoutError:
            raise Failed(f"nobody dialled {self.address} within {seconds} s") from None
        self._pending = b""
        self._socket.sendall(b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04" + self.info_hash + b"-XX0000-by-hand-____")
        self._fill(68, time.monotonic() + 10)
        self._pending = self._pending[68:]
        self.extended(0, bencode({"m": {"ut_metadata": 9}, **said}))
        return self

    def send(self, kind, payload=b""):
        self._socket.sendall(struct.pack(">IB", len(payload) + 1, kind) + payload)

    def extended(self, number, payload):
        self.send(EXTENDED, bytes([number]) + payload)

    def next(self, seconds):
        """(kind, payload) of dhtget's next message; None where it has ended the connection, or says nothing for so long."""
        until = time.monotonic() + seconds
        while True:
            if not self._fill(4, until):
                return None
            length = int.from_bytes(self._pending[:4], "big")
            if not self._fill(4 + length, until):
                return None
            message, self._pending = self._pending[4 : 4 + length], self._pending[4 + length :]
            if not message:
                continue
            if message[0] == EXTENDED and message[1] == 0:
                handshake, _ = _decode_at(message, 2)
                self.ids = {name.decode(): number for name, number in handshake[b"m"].items()}
            return message[0], message[1:]

    def _fill(self, count, until):
        while len(self._pending) < count:
            self._socket.settimeout(max(until - time.monotonic(), 0.001))
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                return False
            except OSError:
                more = b""
            self.ended = not more
            if self.ended:
                return False
            self._pending += more
        return True

    ended = False

    def until_ended(self, seconds):
        """Reads on; whether dhtget ended the connection in that time."""
        until = time.monotonic() + seconds
        while not self.ended and time.monotonic() < until:
            self.next(until - time.monotonic())
        return self.ended

    def close(self):
        for one in (self._socket, self._listener):
            if one:
                one.close()
