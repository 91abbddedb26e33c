"""Private DHTs made of one implementation each, a probe that asks their nodes, and what BEPs 33 and 42 compute."""

import functools
import hashlib
import json
import math
import os
import socket
import sys
import time

from lab import Process, wait_until
from torrents import bdecode, bencode

SIZE = 12
PORT = 6881
HERE = os.path.dirname(os.path.abspath(__file__))


class Dht:
    """Twelve nodes, each on an address of its own."""

    def __init__(self, lab, kind, size=SIZE):
        self.lab, self.kind = lab, kind
        self.nodes = [(lab.address(), PORT) for _ in range(size)]
        self.addresses = [f"{ip}:{port}" for ip, port in self.nodes]
        self.bootstrap = self.addresses[:4]
        self.processes = []

    def wait_ready(self, seconds=40):
        """Every node answers and hands on eight others: then the network is one."""
        with Probe(self.lab) as probe:
            def whole():
                sizes = [probe.table_size(node) for node in self.nodes]
                return min(sizes) >= 8
            wait_until(whole, seconds, f"a DHT of {SIZE} {self.kind} nodes that know each other", self.processes,
                       every=0.7)  # libtorrent shuts out who asks more than five times a second
        return self

    def wait_announced(self, info_hash, address, seconds, processes=()):
        """Waits until some node here stores that peer for the hash."""
        with Probe(self.lab) as probe:
            wait_until(lambda: address in probe.peers(self.nodes, info_hash), seconds,
                       f"{address} is announced in the DHT of {self.kind} nodes", processes, every=2)

    def stop(self):
        for process in self.processes:
            process.stop()


class LibtorrentDht(Dht):
    def __init__(self, lab, name):
        super().__init__(lab, "libtorrent")
        config = json.dumps({"role": "nodes", "listen": self.addresses})
        self.processes = [Process(lab, [sys.executable, f"{HERE}/libtorrent_peer.py", config], lab.folder(name), "nodes")]


class DhtgetDht(Dht):
    """All start at once, cold, and know only the first (which knows the second): the network must form by itself."""

    def __init__(self, lab, name, binary):
        super().__init__(lab, "dhtget")
        for i, address in enumerate(self.addresses):
            known = self.addresses[1 if i == 0 else 0]
            command = [binary, "node", "--listen", address, "--bootstrap", known, "--no-state"]
            self.processes.append(Process(lab, command, lab.folder(name, f"node{i}"), f"node{i}"))


class Probe:
    """Asks one node at a time, from an address of the test range, read-only unless told otherwise.

    `others` holds what came without being an answer, for who wants to answer it himself.
    """

    def __init__(self, lab, address=None):
        self.address = address or lab.probe_address()
        self.id = os.urandom(20)
        self.others = []

    def __enter__(self):
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((self.address, 0))
        self.port = self._socket.getsockname()[1]
        return self

    def __exit__(self, *_):
        self._socket.close()

    def exchange(self, node, data, transaction, seconds=5.0):
        """Sends these bytes; the whole message that answers with that transaction id, or None."""
        self._socket.sendto(data, node)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            message = self.receive(left)
            if message and message[0].get(b"t") == transaction and message[0].get(b"y") in (b"r", b"e"):
                return message[0]
            if message:
                self.others.append(message)
        return None

    def receive(self, seconds):
        """The next message, decoded, and where it came from; None when there is none in time."""
        try:
            self._socket.settimeout(seconds)
            data, sender = self._socket.recvfrom(4096)
            return bdecode(data), sender[:2]
        except (OSError, ValueError):
            return None

    def send(self, node, message):
        self._socket.sendto(bencode(message), node)

    def query(self, node, query, arguments=None, seconds=5.0, **top):
        """The whole answer to a query with these arguments, reply or error, or None."""
        message = {"t": os.urandom(4), "y": "q", "q": query, "a": {"id": self.id, **(arguments or {})}, "ro": 1, **top}
        return self.exchange(node, bencode(message), message["t"], seconds)

    def ask(self, node, query, seconds=0.5, **arguments):
        """The reply's dictionary, or None."""
        try:
            return (self.query(node, query, arguments, seconds) or {}).get(b"r")
        except OSError:
            return None

    def answer_queries(self, seconds):
        """Answers each query as a node would, and returns those that came."""
        end, seen = time.monotonic() + seconds, []
        while (left := end - time.monotonic()) > 0:
            got = self.others.pop(0) if self.others else self.receive(left)
            if got and got[0].get(b"y") == b"q":
                seen.append(got[0])
                self.send(got[1], {"t": got[0][b"t"], "y": "r", "r": {"id": self.id, "nodes": b""}})
        return seen

    def table_size(self, node):
        reply = self.ask(node, "find_node", target=os.urandom(20))
        return max(len((reply or {}).get(b"nodes", b"")) // 26, len((reply or {}).get(b"nodes6", b"")) // 38)

    def peers(self, nodes, info_hash):
        """Every "ip:port" that these nodes themselves store for the hash."""
        found = set()
        for node in nodes:
            reply = self.ask(node, "get_peers", info_hash=bytes.fromhex(info_hash)) or {}
            found |= {endpoint_text(value) for value in reply.get(b"values", []) if len(value) in (6, 18)}
        return found

    def announce(self, node, info_hash, port, **arguments):
        """Announces this probe's address; the whole answer."""
        token = self.query(node, "get_peers", {"info_hash": info_hash})[b"r"][b"token"]
        return self.query(node, "announce_peer", {"info_hash": info_hash, "port": port, "token": token, **arguments})


def endpoint_text(compact):
    """6 or 18 bytes as a person writes them."""
    port = int.from_bytes(compact[-2:], "big")
    if len(compact) == 6:
        return f"{socket.inet_ntoa(compact[:4])}:{port}"
    return f"[{socket.inet_ntop(socket.AF_INET6, compact[:16])}]:{port}"


def node_ids(compact, size=26):
    """The ids in `nodes` (26 bytes each) or `nodes6` (38)."""
    return [compact[at : at + 20] for at in range(0, len(compact), size)]


# ---- BEP 33 ----


def bloom(addresses):
    """The filter in which these addresses were entered: two bits each, of the address's SHA-1."""
    filter_ = bytearray(256)
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        digest = hashlib.sha1(socket.inet_pton(family, address)).digest()
        for at in (0, 2):
            bit = int.from_bytes(digest[at : at + 2], "little") % 2048
            filter_[bit // 8] |= 1 << bit % 8
    return bytes(filter_)


def union(filters):
    return functools.reduce(lambda a, b: bytes(x | y for x, y in zip(a, b)), filters, bytes(256))


def estimate(filter_):
    """How many addresses such a filter stands for."""
    zeros = min(2047, sum(8 - byte.bit_count() for byte in filter_))
    return math.log(zeros / 2048) / (2 * math.log(1 - 1 / 2048))


# ---- BEP 42 ----


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def is_bound(node_id, address):
    """Whether a node at this IPv4 address may have this id: its first 21 bits, with the choice in the last byte."""
    masked = bytearray(a & b for a, b in zip(socket.inet_aton(address), bytes.fromhex("030f3fff")))
    masked[0] |= (node_id[19] & 7) << 5
    wanted = crc32c(masked)
    return (int.from_bytes(node_id[:4], "big") ^ wanted) >> 11 == 0


def bound_id(address, choice=1):
    """An id such as a node at this IPv4 address must have."""
    masked = bytearray(a & b for a, b in zip(socket.inet_aton(address), bytes.fromhex("030f3fff")))
    masked[0] |= (choice & 7) << 5
    crc, rest = crc32c(masked), os.urandom(20)
    prefix = crc >> 11 << 11 | int.from_bytes(rest[:4], "big") & 0x7FF
    return prefix.to_bytes(4, "big") + rest[4:19] + bytes([rest[19] & 0xF8 | choice])
