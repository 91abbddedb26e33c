"""What links carry and how busy they and the processor are. Knows machines, and nothing of what runs on them."""

import socket
import threading
import time

from machines import inside


def goodput(source, target, seconds):
    """Payload bytes a second of one TCP stream from one machine to another, once it has got going."""
    listener = target.socket(kind=socket.SOCK_STREAM)
    listener.bind((target.ip, 9000))
    listener.listen()
    sender = source.socket(kind=socket.SOCK_STREAM)

    def send():
        sender.connect((target.ip, 9000))
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            sender.send(bytes(65_536))
        sender.close()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    taken, _ = listener.accept()
    begun, count, settled = time.monotonic(), 0, None
    while piece := taken.recv(1 << 20):
        count += len(piece)
        now = time.monotonic()
        if settled is None and now - begun > seconds / 4:
            settled = (now, count)
    thread.join()
    for one in (listener, taken):
        one.close()
    return (count - settled[1]) / (now - settled[0])


def reachable(machine, port):
    try:
        with machine.socket(kind=socket.SOCK_STREAM) as one:
            one.settimeout(1)
            one.connect((machine.ip, port))
        return True
    except OSError:
        return False


class Meter:
    """The bytes that went through each machine's port of the switch, sampled."""

    def __init__(self, network, goodput):
        # The port counts a packet's headers once, also where the link carries it as many frames: so what one
        # stream brings through the link is what the port counts when it is full.
        self._network, self._goodput, self._samples = network, goodput, []

    def sample(self, at):
        with inside(self._network._switch), open("/proc/thread-self/net/dev") as stream:
            lines = [line.replace(":", " ").split() for line in stream.readlines()[2:]]
        # What the port receives is what its machine sends.
        self._samples.append((at, {line[0]: (int(line[1]), int(line[9])) for line in lines}))

    def report(self):
        """How busy each kind of link was, on average and each sampled interval, as shares of its rate (absent without one)."""
        kinds = {"sharer": [], "machines": []}
        for machine in self._network.all:
            kind = "sharer" if machine.name == "sharer" else "machines"
            if machine.name != "boot" and machine.up and self._moved(machine.port):
                kinds[kind].append(machine)
        return {kind: self._busy(machines) for kind, machines in kinds.items()}

    def _moved(self, port):
        (_, first), (_, last) = self._samples[0], self._samples[-1]
        return last[port][1] - first[port][1] > 100_000

    def _busy(self, machines):
        def share(which, rate, before, after):
            (t0, a), (t1, b) = before, after
            carried = sum(b[m.port][which] - a[m.port][which] for m in machines)
            could = sum(self._goodput for m in machines if getattr(m, rate)) * (t1 - t0)
            return round(carried / could, 3) if could else 0
        pairs = list(zip(self._samples, self._samples[1:]))
        ends = (self._samples[0], self._samples[-1])
        return {
            "count": len(machines),
            "up_busy": share(0, "up", *ends), "down_busy": share(1, "down", *ends),
            "at": [round(after[0], 2) for _, after in pairs],
            "up": [share(0, "up", *pair) for pair in pairs], "down": [share(1, "down", *pair) for pair in pairs],
        }


def processor():
    with open("/proc/stat") as stream:
        return [int(word) for word in stream.readline().split()[1:9]]


def processor_share(before, after):
    """Of all cores: user, nice, system, idle, iowait, irq, softirq, steal."""
    spent = [b - a for a, b in zip(before, after)]
    whole = sum(spent) or 1
    return {"busy": round(1 - (spent[3] + spent[4]) / whole, 3), "nice": round(spent[1] / whole, 3), "softirq": round(spent[6] / whole, 3)}
