"""The ground under the cases: a network namespace, processes that cannot outlive the runner, bounded waits, byte counts.

Owns no knowledge of BitTorrent or of any client.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

CLONE_NEWNET = 0x40000000
PREFIX = "dhtget-interop-"


class Failed(Exception):
    """A case did not come out as it must; the message says what was seen."""


class Lab:
    """One run: its namespace, its scratch folder, its addresses and every process it started."""

    def __init__(self, keep=False):
        self.keep = keep
        self.name = f"{PREFIX}{os.getpid()}"
        self.root = tempfile.mkdtemp(prefix=PREFIX)
        self._lock = threading.Lock()
        self._next_address = self._next_probe = self._next_address6 = 0
        self._processes = []
        _enter_namespace(self.name)

    def address(self):
        """An address nobody else has: 198.18.10.1, 198.18.11.1, ...; each of 240 in a row in a /24 of its own."""
        with self._lock:
            row, number = divmod(self._next_address, 240)
            self._next_address += 1
            if row > 200:
                raise Failed("out of addresses")
            return f"198.18.{number + 10}.{row + 1}"

    def public_address(self):
        """The same, of a range that is on the internet elsewhere: 44.128.10.1, 44.128.11.1, ..."""
        return self.address().replace("198.18.", "44.128.", 1)

    def address6(self):
        """The same over IPv6, each in a /64 of its own: 2001:2:0:1::1, ... (2001:2::/48 is set aside as 198.18/15 is)."""
        with self._lock:
            self._next_address6 += 1
            address = f"2001:2:0:{self._next_address6:x}::1"
        # No whole range here: IPv6 lets nobody bind to an address that is only routed.
        result = _run("ip", "-6", "addr", "add", f"{address}/128", "dev", "lo", "nodad")
        if result.returncode:
            raise Failed(f"no IPv6 address {address}: {result.stderr.strip()}")
        return address

    def probe_address(self):
        """A source address for one batch of questions, so that no node's limit for an address counts two of them."""
        with self._lock:
            self._next_probe += 1
            return f"198.18.{self._next_probe // 250 + 1}.{self._next_probe % 250 + 1}"

    def folder(self, *parts):
        path = os.path.join(self.root, *parts)
        os.makedirs(path, exist_ok=True)
        return path

    def register(self, process):
        with self._lock:
            self._processes.append(process)

    def end_of(self, folder):
        """Kills what a case left running, and drops its data unless --keep."""
        path = os.path.join(self.root, folder)
        for process in list(self._processes):
            if process.folder.startswith(path + os.sep):
                process.kill()
        if not self.keep:
            shutil.rmtree(path, ignore_errors=True)

    def close(self):
        for process in list(self._processes):
            process.kill()
        # The namespace itself ends with its last process; this removes its name.
        _run("ip", "netns", "del", self.name)
        if self.keep:
            print(f"kept: {self.root}", flush=True)
        else:
            shutil.rmtree(self.root, ignore_errors=True)


def _run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)


def _enter_namespace(name):
    """Moves this process (no threads yet) into a new namespace whose only device is `lo`."""
    _sweep_names()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise SystemExit(f"cannot make a network namespace ({os.strerror(ctypes.get_errno())}): run as root")
    commands = (
        # 127.x is not enough: Transmission ignores DHT nodes there. 198.18/15 is set aside for tests of devices.
        "ip link set lo up",
        "ip addr add 198.18.0.1/32 dev lo",
        "ip route add local 198.18.0.0/16 dev lo src 198.18.0.1",
        # Local discovery speaks to a group of hosts.
        "ip link set lo multicast on",
        "ip route add 239.0.0.0/8 dev lo",
        # What dhtget and libtorrent take for the internet; nothing but `lo` is in here.
        "ip route add local 44.128.0.0/16 dev lo",
    )
    for command in commands:
        result = _run(*command.split())
        if result.returncode:
            raise SystemExit(f"{command}: {result.stderr.strip()}")
    # The name is for a person who wants to look in; where /run/netns cannot be mounted the run goes on without.
    _run("ip", "netns", "attach", name, str(os.getpid()))


def _sweep_names():
    """Removes names left by runners that were killed with SIGKILL."""
    try:
        names = os.listdir("/run/netns")
    except OSError:
        return
    for name in names:
        match = re.fullmatch(re.escape(PREFIX) + r"(\d+)", name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            _run("ip", "netns", "del", name)


class Process:
    """A child whose stdout and stderr go to files, and that the kernel kills when its parent's thread ends."""

    def __init__(self, lab, command, folder, name="process", env=None):
        self.command, self.name, self.folder = command, name, folder
        self.out_path, self.err_path = f"{folder}/{name}.out", f"{folder}/{name}.err"
        home = {"HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_DATA_HOME": folder, "XDG_CACHE_HOME": folder, "XDG_STATE_HOME": folder}
        self._skip = os.path.getsize(self.out_path) if os.path.exists(self.out_path) else 0
        with open(self.out_path, "ab") as out, open(self.err_path, "ab") as err:
            self._child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, start_new_session=True,
                env={**os.environ, "LC_ALL": "C.UTF-8", **home, **(env or {})},
            )
        lab.register(self)

    @property
    def pid(self):
        return self._child.pid

    @property
    def exit_code(self):
        """None while it runs; 128 + signal, as a shell says it, when a signal ended it."""
        code = self._child.poll()
        return 128 - code if code is not None and code < 0 else code

    @property
    def died_of_signal(self):
        return (self._child.poll() or 0) < 0

    def signal(self, number):
        self._child.send_signal(number)

    def wait(self, seconds):
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} still ran after {seconds} s\n{self.tail()}") from None
        return self.exit_code

    def stop(self, grace=5):
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(grace)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.exit_code

    def kill(self):
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait(10)

    def stdout(self):
        with open(self.out_path, "rb") as stream:
            stream.seek(self._skip)
            return stream.read().decode(errors="replace")

    def stderr(self):
        with open(self.err_path, errors="replace") as stream:
            return stream.read()

    def events(self):
        """The complete JSON lines on stdout so far."""
        text = self.stdout()
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def tail(self, lines=8):
        said = []
        for path in (self.out_path, self.err_path):
            with open(path, errors="replace") as stream:
                last = [line[:300] for line in stream.read().splitlines()[-lines:]]
            said += [f"    {os.path.basename(path)}: {line}" for line in last]
        return "\n".join([f"    $ {' '.join(self.command)[:600]}", *said])


def wait_until(check, seconds, what, processes=(), every=0.1):
    """Polls `check` until it gives something true, and returns that. Fails early when a process it needs ended."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        for process in processes:
            if process.exit_code is not None:
                found = check()
                if found:
                    return found
                raise Failed(f"{process.name} ended with {process.exit_code} before {what}\n{process.tail()}")
        if time.monotonic() >= end:
            raise Failed(f"not within {seconds} s: {what}\n" + "\n".join(p.tail() for p in processes))
        time.sleep(every)


class Traffic(threading.Thread):
    """Who received how many TCP bytes from whom, read from the kernel four times a second.

    Both ends of every connection live in this namespace, so each end's owner is known by its process id,
    whatever source address a client picks. Bytes of the last quarter second of a connection are not seen:
    the counts are lower bounds.
    """

    LINE = re.compile(r"^\S+\s+\d+\s+\d+\s+(\S+)\s+(\S+)(.*)$")

    def __init__(self, owners):
        """`owners`: {pid: name}"""
        super().__init__(daemon=True)
        self._owners, self._ended = owners, threading.Event()
        self._owner_of, self._received = {}, {}

    def run(self):
        while not self._ended.wait(0.25):
            self._poll()

    def finish(self):
        self._ended.set()
        self.join(10)
        self._poll()
        received = {}
        for (local, remote), count in self._received.items():
            to, source = self._owner_of.get((local, remote)), self._owner_of.get((remote, local))
            if to and source and to != source:
                pair = received.setdefault(to, {})
                pair[source] = pair.get(source, 0) + count
        return received

    def _poll(self):
        for line in _run("ss", "-tinpHO", "state", "all").stdout.splitlines():
            match = self.LINE.match(line)
            if not match:
                continue
            ends = (_plain(match[1]), _plain(match[2]))
            count = re.search(r"bytes_received:(\d+)", match[3])
            pid = re.search(r"pid=(\d+)", match[3])
            if pid and int(pid[1]) in self._owners:
                self._owner_of[ends] = self._owners[int(pid[1])]
            if count:
                self._received[ends] = max(self._received.get(ends, 0), int(count[1]))


class Watch(threading.Thread):
    """What one address sends, as it arrives elsewhere: (UDP payload, destination) pairs, and the bytes of all TCP segments."""

    def __init__(self, ip):
        super().__init__(daemon=True)
        self._ip, self._ended = socket.inet_aton(ip), threading.Event()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.bind(("lo", 0x0800))
        self._socket.settimeout(0.2)
        self.udp, self.tcp = [], bytearray()

    def run(self):
        while not self._ended.is_set():
            try:
                packet = self._socket.recv(70_000)
            except TimeoutError:
                continue
            if packet[12:16] == self._ip:
                self._take(packet)

    def _take(self, packet):
        body = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
        if packet[9] == socket.IPPROTO_UDP:
            self.udp.append((body[8:], f"{socket.inet_ntoa(packet[16:20])}:{int.from_bytes(body[2:4], 'big')}"))
        elif packet[9] == socket.IPPROTO_TCP:
            self.tcp += body[(body[12] >> 4) * 4 :]

    def finish(self):
        self._ended.set()
        self.join(10)
        self._socket.close()
        return self


def connections(address):
    """The other ends of all TCP connections that stand with `address`."""
    lines = [line.split() for line in _run("ss", "-tnHO", "state", "established").stdout.splitlines()]
    return [_plain(remote) for _, _, local, remote, *_ in lines if _plain(local) == address]


def _plain(end):
    return end.replace("[::ffff:", "").replace("]", "")


SIGHUP, SIGINT, SIGKILL, SIGTERM = signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM
