"""Private DHTs made of one implementation each, and a small probe that asks their nodes."""

import json
import os
import socket
import sys

from lab import Process, wait_until
from torrents import bdecode, bencode

SIZE = 12
PORT = 6881
HERE = os.path.dirname(os.path.abspath(__file__))


class Dht:
    """Twelve nodes, each on an address of its own."""

    def __init__(self, lab, kind):
        self.lab, self.kind = lab, kind
        self.nodes = [(lab.address(), PORT) for _ in range(SIZE)]
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
    """Asks one node at a time, from an address of the test range."""

    def __init__(self, lab):
        self.address = lab.probe_address()
        self.id = os.urandom(20)

    def __enter__(self):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self.address, 0))
        return self

    def __exit__(self, *_):
        self._socket.close()

    def ask(self, node, query, seconds=0.5, **arguments):
        """The reply's dictionary, or None."""
        transaction = os.urandom(4)
        message = {"t": transaction, "y": "q", "q": query, "a": {"id": self.id, **arguments}, "ro": 1}
        try:
            self._socket.settimeout(seconds)
            self._socket.sendto(bencode(message), node)
            while True:
                data, _ = self._socket.recvfrom(4096)
                reply = bdecode(data)
                if reply.get(b"t") == transaction:
                    return reply.get(b"r")
        except (OSError, ValueError):
            return None

    def table_size(self, node):
        reply = self.ask(node, "find_node", target=os.urandom(20))
        return len((reply or {}).get(b"nodes", b"")) // 26

    def peers(self, nodes, info_hash):
        """Every "ip:port" that these nodes themselves store for the hash."""
        found = set()
        for node in nodes:
            reply = self.ask(node, "get_peers", info_hash=bytes.fromhex(info_hash)) or {}
            for value in reply.get(b"values", []):
                if len(value) == 6:
                    found.add(f"{socket.inet_ntoa(value[:4])}:{int.from_bytes(value[4:], 'big')}")
        return found


