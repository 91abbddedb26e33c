"""Cases without an address to start from: members on one link, and names whose SRV records lead to them."""

import contextlib
import os
import struct
import threading
import time

import torrents
from lab import Failed, wait_until
from machines import Packet
from office import DHTGET, PORT, create, event, fetch, networked, node, same, secrets, share
from private_cases import case, unsaid

MDNS = 5353
NAME = "_dhtget._udp.corp.example"


@case
def found_without_any_address(network):
    """Members on a switch find each other over IPv4 and IPv6 in a second and fetch; a network beside them learns nothing of it."""
    first, second, third = (network.add() for _ in range(3))
    stranger = network.add("stranger")
    path, invite = create(first, "corp", [], "--lan")
    other, _ = create(stranger, "other", [], "--lan")
    heard = stranger.capture()
    apart = node(stranger, other)
    one, two = node(first, path), node(second, path)
    for process in (one, two):
        event(process, "node", 10, nodes_v4=1, nodes_v6=1)
    folder = torrents.small(first.folder, "of the neighbours")
    shared, magnet = share(first, path, folder.path, "--no-state")
    begun = time.monotonic()
    event(fetch(third, path, magnet), "finished", 20)
    took = time.monotonic() - begun
    same(folder.path, f"{third.folder}/got/{folder.name}")
    if took > 5:
        raise Failed(f"who came last needed {took:.1f} s where nothing but the link was to be found")
    for process in (one, two, shared):
        process.stop()
    heard.finish()
    known = [e for e in apart.events() if e["event"] == "node" and e["nodes_v4"] + e["nodes_v6"]]
    if known:
        raise Failed(f"a node of another network knows somebody: {known[-1]}")
    overheard(heard, stranger, (first, second, third), secrets(path, invite) | {b"corp", os.uname().nodename.encode()})


def overheard(capture, stranger, members, words):
    """Strangers hear multicast DNS of the members and nothing else; that names neither the network nor a machine."""
    addresses = {address for m in members for address in (m.ip, m.ip6)}
    said = [p for p in capture.packets(True) if p.protocol == Packet.UDP and p.target_port == MDNS]
    if sum(p.source in addresses for p in said) < 4:
        raise Failed(f"the capture saw only {len(said)} messages of members: it proves nothing")
    for packet in said:
        unsaid(words, packet.payload, "what everybody hears")
    for packet in capture.packets(True):
        told = packet.source in addresses and (packet.protocol == Packet.UDP or packet.protocol == Packet.TCP and packet.payload)
        if told and packet.target_port != MDNS:
            raise Failed(f"{stranger.name} was told something: {packet}: {packet.payload[:60].hex()}")


@case
def found_once_the_link_is_there(network):
    """A node that starts without a cable, and one whose address changes, are found within seconds."""
    first, second, third = (network.add() for _ in range(3))
    path, _ = create(first, "corp", [], "--lan")
    one = node(first, path)
    second.unplug()
    two = node(second, path)
    time.sleep(1)
    second.plug()
    event(two, "node", 15, nodes_v4=1)
    event(one, "node", 5, nodes_v4=1)
    second.move("10.77.200.9")
    # Whoever comes now finds it where it is, and nobody where it was.
    three = node(third, path)
    event(three, "node", 15, nodes_v4=2)


@case
def srv_records_lead_in(network):
    """A network whose only entry is a name finds its bootstrap node through SRV and address records, and says so when it cannot."""
    # Nobody knows the last one, and so nobody greets it.
    boot, member, last = (network.add() for _ in range(3))
    path, _ = create(boot, "corp", [NAME])
    node(boot, path, "--listen", f"{boot.ip}:{PORT}")
    with zone(boot, {(NAME, 33): [srv(10, PORT, "gone.corp.example"), srv(20, PORT, "boot.corp.example")],
                     ("boot.corp.example", 1): [bytes(map(int, boot.ip.split(".")))]}):
        asks = resolver(member, boot.ip)
        process = member.start(*asks, DHTGET, "node", *networked(member, path), "--json", name="node")
        event(process, "node", 10, nodes_v4=1)
        process.stop()
        folder = torrents.small(boot.folder, "behind a name")
        _, magnet = share(boot, path, folder.path, "--no-state", "--peer", f"{boot.ip}:{PORT}", announced=False)
        get = member.start(*asks, DHTGET, magnet, "-d", f"{member.folder}/got", *networked(member, path), "--json", name="get")
        event(get, "finished", 20)
        same(folder.path, f"{member.folder}/got/{folder.name}")
    with zone(boot, {}):
        process = last.start(*resolver(last, boot.ip), DHTGET, "node", *networked(last, path), "-v", name="lost")
        wait_until(lambda: f"`dig SRV {NAME}`" in process.stderr(), 15, "the node says which name leads nowhere", [process])


def resolver(machine, server):
    """What a command begins with so that it asks this server for names."""
    path = f"{machine.folder}/resolv.conf"
    with open(path, "w") as out:
        out.write(f"nameserver {server}\n")
    return ["unshare", "-m", "sh", "-c", f'mount --bind {path} /etc/resolv.conf && exec "$@"', "sh"]


def srv(priority, port, host):
    return struct.pack("!HHH", priority, 0, port) + labels(host)


def labels(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


@contextlib.contextmanager
def zone(machine, records):
    """A name server on that machine with these records, {(name, type): [data]}."""
    served = machine.socket()
    served.bind((machine.ip, 53))
    served.settimeout(0.1)
    ended = threading.Event()

    def serve():
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                question, asker = served.recvfrom(1500)
                served.sendto(answer(question, records), asker)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)
        served.close()


def answer(question, records):
    at, name = 12, []
    while question[at]:
        name.append(question[at + 1 : at + 1 + question[at]].decode().lower())
        at += 1 + question[at]
    kind = struct.unpack_from("!H", question, at + 1)[0]
    name = ".".join(name)
    found = records.get((name, kind), [])
    unknown = not any(n == name for n, _ in records)
    head = question[:2] + struct.pack("!HHHHH", 0x8183 if unknown else 0x8180, 1, len(found), 0, 0)
    body = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data for data in found)
    return head + question[12 : at + 5] + body
