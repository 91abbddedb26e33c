"""Machines: network namespaces on one switch, itself in a namespace of its own, so that nothing touches the host's network.

Each machine has an IPv4 and an IPv6 address, a folder that is its HOME, and, if asked for, a link of limited rate. Machines
can be cut apart, healed, unplugged, moved to another address and listened to. Owns no knowledge of BitTorrent or of any client.
"""

import contextlib
import ctypes
import itertools
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time

from lab import Failed, Process

PREFIX = "dhtget-machines-"
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
PACKET_OUTGOING = 4
_serial = itertools.count(1)
# A queue that holds this much time of the link's rate, as a modest switch port does; TCP fills the link with it.
QUEUE_MS = 50
# The bucket holds this much time at the link's rate, and never less than the largest packet the kernel hands over in one piece: so
# it is not cut into frames, which for forty machines would cost more of the processor than all else they do.
BURST_MS, BURST_LEAST = 2, 66_000
# Cubic is the default nearly everywhere, whatever the host has; some kernels keep it from namespaces, and Reno is next to it.
CONGESTION = ("cubic", "reno")


class Machines:
    """One network of machines: its namespaces, its scratch folder and every process started on it."""

    open = []  # those that were not closed yet

    def __init__(self, folder=None, keep=False):
        sweep(folder)
        self.keep, self.name = keep, f"{PREFIX}{os.getpid()}-{next(_serial)}-"
        # `keep` takes the number out of the name, so that no later run sweeps it.
        self.root = tempfile.mkdtemp(prefix=PREFIX if keep else f"{PREFIX}{os.getpid()}-", dir=folder)
        self.all, self._processes, self._lock = [], [], threading.Lock()
        self._switch = f"{self.name}switch"
        Machines.open.append(self)
        made = _run("ip", "netns", "add", self._switch)
        if made.returncode:
            raise SystemExit(f"cannot make a network namespace ({made.stderr.strip()}): run as root")
        try:
            self._lay_switch()
        except BaseException:
            self.close()
            raise

    def _lay_switch(self):
        lines = ["link set lo up"]
        for bridge in ("whole", "apart"):
            # Without snooping, multicast reaches every port, as on any cheap switch.
            lines += [f"link add {bridge} type bridge mcast_snooping 0 forward_delay 0", f"link set {bridge} up"]
        # A gateway that leads nowhere: machines have a default route, as they do elsewhere.
        lines += ["addr add 10.77.0.1/16 dev whole", "addr add fd77::1/64 dev whole nodad"]
        _batch(self._switch, lines)

    def add(self, name=None, up=None, down=None):
        """A new machine. `up` and `down`: bits a second of its link, None for what the host can do."""
        number = len(self.all) + 1
        machine = Machine(self, number, name or f"m{number}", up, down)
        self.all.append(machine)
        return machine

    def acquaint(self):
        """Tells every machine the hardware address of every other. The kernel has one table of learned ones for all namespaces, of
        1,024 entries: with more than thirty machines that all talk to each other it overflows, and datagrams vanish."""
        for machine in self.all:
            _batch(machine.namespace, [
                f"neigh replace {ip} lladdr {other.mac} dev eth0 nud permanent"
                for other in self.all if other is not machine for ip in (other.ip, other.ip6)
            ])

    def cut(self, machines):
        """Puts these machines on a switch of their own: they go on seeing each other, and nobody else."""
        self._plug(machines, "apart")

    def heal(self):
        self._plug(self.all, "whole")

    def _plug(self, machines, bridge):
        _batch(self._switch, [f"link set {m.port} master {bridge}" for m in machines])

    def folder(self, *parts):
        path = os.path.join(self.root, *parts)
        os.makedirs(path, exist_ok=True)
        return path

    def register(self, process):
        with self._lock:
            self._processes.append(process)

    def stop_processes(self):
        """Kills whatever still runs on any machine."""
        for process in self._processes:
            process.kill()
        self._processes.clear()

    def close(self):
        Machines.open.remove(self)
        self.stop_processes()
        for name in [m.namespace for m in self.all] + [self._switch]:
            _run("ip", "netns", "del", name)
        if self.keep:
            print(f"kept: {self.root}", flush=True)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Machine:
    """One of them."""

    def __init__(self, network, number, name, up, down):
        self.network, self.number, self.name = network, number, name
        # Numbers below 256 are left to gateways and whatever a test puts beside the machines.
        self.ip, self.ip6 = f"10.77.{number // 250 + 1}.{number % 250 + 1}", f"fd77::{number + 0x100:x}"
        self.namespace, self.port = f"{network.name}{number}", f"p{number}"
        self.mac = f"02:77:00:00:{number >> 8:02x}:{number & 255:02x}"
        self.folder = network.folder(name)
        switch = network._switch
        _must("ip", "netns", "add", self.namespace)
        _must("ip", "-n", switch, "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "address", self.mac,
              "netns", self.namespace)
        _batch(switch, [f"link set {self.port} master whole", f"link set {self.port} up"])
        self.congestion = self._set_congestion()
        _batch(self.namespace, [
            "link set lo up",
            f"addr add {self.ip}/16 dev eth0", f"addr add {self.ip6}/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.77.0.1", "route add ::/0 via fd77::1",
        ])
        self.shape(up, down)

    def _set_congestion(self):
        path = "/proc/sys/net/ipv4/tcp_congestion_control"
        with inside(self.namespace):
            for name in reversed(CONGESTION):  # the best that works comes last
                with contextlib.suppress(OSError), open(path, "w") as out:
                    out.write(name)
            with open(path) as stream:
                return stream.read().strip()

    def shape(self, up, down):
        """Limits what this machine sends and receives, in bits a second."""
        self.up, self.down = up, down
        for namespace, device, rate in ((self.namespace, "eth0", up), (self.network._switch, self.port, down)):
            _run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root")
            if rate:
                burst = max(rate * BURST_MS // 8_000, BURST_LEAST)
                _must("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{rate}bit",
                      "burst", str(burst), "latency", f"{QUEUE_MS}ms")

    def run(self, *command, seconds=30, env=None, typed=""):
        """Runs a command on this machine to its end, with `typed` on its stdin: what came of it, stdout and stderr as text."""
        home = {"HOME": self.folder, "XDG_CONFIG_HOME": self.folder, "XDG_DATA_HOME": self.folder,
                "XDG_CACHE_HOME": self.folder, "XDG_STATE_HOME": self.folder}
        return subprocess.run(self.here(command), input=typed, capture_output=True, text=True, timeout=seconds,
                              cwd=self.folder, env={**os.environ, "LC_ALL": "C.UTF-8", **home, **(env or {})})

    def start(self, *command, name="process", env=None):
        """Starts a command on this machine; it dies with the runner."""
        return Process(self.network, self.here(command), self.folder, name, env)

    def here(self, command):
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *command]

    def unplug(self):
        """Pulls the cable: the machine sees its carrier go, as when it is switched off or sleeps."""
        _must("ip", "-n", self.network._switch, "link", "set", self.port, "down")

    def plug(self):
        _must("ip", "-n", self.network._switch, "link", "set", self.port, "up")

    def move(self, ip):
        """Gives the machine another IPv4 address; the old one is gone at once."""
        _batch(self.namespace, [f"addr del {self.ip}/16 dev eth0", f"addr add {ip}/16 dev eth0",
                                "route add default via 10.77.0.1"])
        self.ip = ip

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_DGRAM):
        """A socket of this machine, to be used from here."""
        with inside(self.namespace):
            return socket.socket(family, kind)

    def capture(self):
        """Listens at this machine's port of the switch from now on."""
        return Capture(self)


class Capture(threading.Thread):
    """Every frame that goes through a machine's port, to it and from it, as the switch sees it."""

    def __init__(self, machine):
        super().__init__(daemon=True)
        self.frames = []  # (seconds since the epoch, whether it goes to the machine, bytes)
        self._ended = threading.Event()
        with inside(machine.network._switch):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE: bursts must not be lost
        self._socket.bind((machine.port, ETH_P_ALL))
        self._socket.settimeout(0.1)
        self.start()

    def run(self):
        while not self._ended.is_set():
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            except OSError:
                return  # its machine is gone
            self.frames.append((time.time(), kind == PACKET_OUTGOING, frame))

    def finish(self):
        """Stops, and says what was seen. Fails if the kernel had to drop a frame: a proof must be whole."""
        self._ended.set()
        self.join(10)
        seen, dropped = struct.unpack("II", self._socket.getsockopt(263, 6, 8))  # SOL_PACKET, PACKET_STATISTICS
        self._socket.close()
        if dropped:
            raise Failed(f"the capture lost {dropped} of {seen} frames")
        return self

    def packets(self, to_machine):
        """The IP packets of one direction, taken apart."""
        for _, outgoing, frame in self.frames:
            packet = Packet.of(frame) if outgoing == to_machine else None
            if packet:
                yield packet

    def pcap(self, path):
        """Writes all of it for tcpdump and Wireshark."""
        with open(path, "wb") as out:
            out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 17, 1))
            for at, _, frame in self.frames:
                out.write(struct.pack("<IIII", int(at), int(at % 1 * 1e6), len(frame), len(frame)) + frame)


class Packet:
    """One IP packet: its ends, its protocol and what it carries."""

    UDP, TCP = socket.IPPROTO_UDP, socket.IPPROTO_TCP

    def __init__(self, source, target, protocol, body):
        self.source, self.target, self.protocol = source, target, protocol
        self.source_port = self.target_port = self.flags = None
        self.payload = body
        if protocol in (self.UDP, self.TCP):
            self.source_port, self.target_port = struct.unpack_from("!HH", body)
            self.payload = body[8:] if protocol == self.UDP else body[(body[12] >> 4) * 4 :]
        if protocol == self.TCP:
            self.flags = body[13]

    @classmethod
    def of(cls, frame):
        """None for what is not IP (ARP, LLDP)."""
        kind, packet = frame[12:14], frame[14:]
        if kind == b"\x08\x00":
            body = packet[(packet[0] & 15) * 4 : int.from_bytes(packet[2:4], "big")]
            return cls(socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20]), packet[9], body)
        if kind == b"\x86\xdd":
            ends = (socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24))
            return cls(*ends, packet[6], packet[40 : 40 + int.from_bytes(packet[4:6], "big")])
        return None

    def __str__(self):
        name = {self.UDP: "UDP", self.TCP: f"TCP flags {self.flags}"}.get(self.protocol, f"protocol {self.protocol}")
        return f"{name} {self.source}:{self.source_port} -> {self.target}:{self.target_port}, {len(self.payload)} bytes"


@contextlib.contextmanager
def inside(namespace):
    """This thread is in the namespace for as long as the block lasts; sockets made there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{namespace}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        try:
            yield
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                os._exit(1)  # nobody would know any more where this process is


def sweep(folder=None):
    """Removes the namespaces and folders of runners that were killed."""
    for place in ("/run/netns", folder or tempfile.gettempdir()):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            match = re.match(re.escape(PREFIX) + r"(\d+)-", name)
            if not match or os.path.exists(f"/proc/{match[1]}"):
                continue
            if place == "/run/netns":
                _run("ip", "netns", "del", name)
            else:
                shutil.rmtree(f"{place}/{name}", ignore_errors=True)


def _batch(namespace, lines):
    result = subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, timeout=30)
    if result.returncode:
        raise Failed(f"ip in {namespace}: {result.stderr.strip()}")


def _must(*command):
    result = _run(*command)
    if result.returncode:
        raise Failed(f"{' '.join(command)}: {result.stderr.strip()}")


def _run(*command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
