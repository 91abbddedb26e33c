"""Torrents of extreme shapes, between dhtget and libtorrent: one byte, pieces of 64 MiB, terabytes."""

import hashlib
import os
import time

import torrents
from cases import case
from clients import Dhtget, Libtorrent
from lab import Failed

HUGE_PIECE = 64 << 20
TIB = 1 << 40
# The most that a transfer may have resident, whatever its shape.
MOST_MIB = 40


def peak_while_it_runs(process, seconds):
    """Waits for the end, with exit code 0; the most MiB that were resident."""
    peak, end = 0.0, time.monotonic() + seconds
    while process.exit_code is None:
        if time.monotonic() > end:
            raise Failed(f"not done after {seconds} s\n{process.tail()}")
        try:
            with open(f"/proc/{process.pid}/status") as stream:
                peak = max([peak, *(int(line.split()[1]) / 1024 for line in stream if line.startswith("VmHWM"))])
        except OSError:
            pass
        time.sleep(0.01)
    if process.exit_code:
        raise Failed(f"ended with {process.exit_code}\n{process.tail()}")
    return peak


def fetch(lab, folder, torrent, seeder, *options):
    getter = Dhtget(lab, folder, (), "getter")
    getter.fetch(torrent.magnet, "--no-dht", *options, peers=[seeder.address])
    peak = peak_while_it_runs(getter.process, 60)
    if not 1 < peak <= MOST_MIB:
        raise Failed(f"{peak:.1f} MiB were resident, not {MOST_MIB} at most")
    return getter


@case
def one_byte(lab, folder):
    """A torrent of a single byte, to dhtget and from it."""
    torrent = torrents.write(torrents.Torrent(lab.folder(folder, "payload"), "a byte"), folder, [("it", 1)]).pack(16_384)
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent])
    fetch(lab, folder, torrent, seeder).check([torrent])
    sharer = Dhtget(lab, folder, (), "sharer").share(torrent, "--no-dht")
    Libtorrent(lab, folder, (), "leecher").leech([torrent.magnet], [sharer.address]).wait_done([torrent], 20)


@case
def pieces_of_64_mib(lab, folder):
    """Pieces of 64 MiB, two and a bit of them: to dhtget, and on from it while it seeds."""
    shapes = [("large.bin", 2 * HUGE_PIECE + 9_000_001), ("small.txt", 5_000)]
    torrent = torrents.write(torrents.Torrent(lab.folder(folder, "payload"), "large pieces"), folder, shapes).pack(HUGE_PIECE)
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent])
    fetch(lab, folder, torrent, seeder).check([torrent])
    between = Dhtget(lab, folder, (), "between")
    between.fetch(torrent.magnet, "--no-dht", "--seed", peers=[seeder.address])
    Libtorrent(lab, folder, (), "leecher").leech([torrent.magnet], [between.address]).wait_done([torrent], 60)
    between.check([torrent])


@case
def terabytes(lab, folder):
    """The files before and behind a disk image of three TiB, which stays away: 49,000 pieces of 64 MiB."""
    torrent = torrents.Torrent(lab.folder(folder, "payload"), "terabytes")
    torrents.write(torrent, folder, [("a first.bin", 300_001), ("z last.bin", 700_001)])
    # Nothing but zeros, none of them on the disk.
    with open(f"{torrent.path}/image.raw", "wb") as image:
        image.truncate(3 * TIB)
    files = torrents.walk(torrent.path)
    sizes = {name: os.path.getsize(path) for name, path in files.items()}
    total = sum(sizes.values())
    with open(files["a first.bin"], "rb") as first, open(files["z last.bin"], "rb") as last:
        before, behind = first.read(), last.read()
    zeros = bytes(HUGE_PIECE)
    zero_hash = hashlib.sha1(zeros).digest()
    last_piece = total % HUGE_PIECE
    hashes = [hashlib.sha1(before + zeros[len(before):]).digest(), *[zero_hash] * (total // HUGE_PIECE - 1),
              hashlib.sha1(zeros[:last_piece - len(behind)] + behind).digest()]
    torrent.described({"name": torrent.name, "piece length": HUGE_PIECE, "pieces": b"".join(hashes),
                       "files": [{"length": size, "path": [name]} for name, size in sizes.items()]})
    # It would read zeros for an hour otherwise.
    seeder = Libtorrent(lab, folder, (), "seeder").seed([torrent], unchecked=True)
    getter = fetch(lab, folder, torrent, seeder, "--select-file", "*.bin")
    have = torrents.walk(f"{getter.out}/{torrent.name}")
    if sorted(have) != ["a first.bin", "z last.bin"]:
        raise Failed(f"{sorted(have)} came")
    for name, path in have.items():
        if torrents.sha256(path) != torrents.sha256(files[name]):
            raise Failed(f"{name} differs")
