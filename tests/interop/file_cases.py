"""Some files of a torrent, in order, to stdout: dhtget fetches from libtorrent, which made the torrents."""

import glob
import hashlib
import os
import subprocess

import torrents
from cases import case
from clients import Dhtget, Libtorrent, dhtget_binary
from lab import Failed

SHAPES = [("one.bin", 200_001), ("docs/two.txt", 5_000), ("docs/three.txt", 90_000), ("four.bin", 700_000), ("five.iso", 400_000)]
PIECE = 65_536


def five(lab, folder, pack=None):
    """Five files in pieces that lie across them, and a libtorrent seed of them."""
    torrent = torrents.write(torrents.Torrent(lab.folder(folder, "payload"), f"five {folder}"), folder, SHAPES)
    (pack or (lambda t: t.pack(PIECE)))(torrent)
    return torrent, Libtorrent(lab, folder, (), "seeder").seed([torrent])


def fetch(lab, folder, label, torrent, seeder, *options, target=None, out=None):
    """One run that ends with 0, into the folder of an earlier one where `out` is given."""
    getter = Dhtget(lab, folder, (), label)
    getter.out = out or getter.out
    getter.fetch(target or torrent.file, "--no-dht", *options, peers=[seeder.address], state=())
    code = getter.process.wait(40)
    if code:
        raise Failed(f"dhtget ended with {code}\n{getter.process.tail()}")
    return getter


def expect(torrent, getter, names):
    """These files and no others, byte for byte; hidden files of ours aside."""
    have = torrents.walk(f"{getter.out}/{torrent.name}")
    if set(have) != set(names):
        raise Failed(f"{sorted(have)} instead of {sorted(names)}")
    for name in names:
        if torrents.sha256(have[name]) != torrents.sha256(f"{torrent.path}/{name}"):
            raise Failed(f"{name} differs")
    if glob.glob(f"{getter.out}/.*-parts"):
        raise Failed("the parts file is still there")


@case
def two_files_of_five(lab, folder):
    """--select-file by number and by glob, the others absent; then another selection, then the rest."""
    torrent, seeder = five(lab, folder)
    names = list(torrents.walk(torrent.path))
    number = names.index("one.bin") + 1
    getter = fetch(lab, folder, "first", torrent, seeder, "--select-file", f"{number},*.iso")
    expect(torrent, getter, ["one.bin", "five.iso"])
    told = getter.event("selected")
    if told["size"] != 600_001 or getter.event("finished")["bytes"] != 600_001:
        raise Failed(f"other figures: {told}")
    second = fetch(lab, folder, "second", torrent, seeder, "--select-file", "docs/**", out=getter.out)
    expect(torrent, second, ["one.bin", "five.iso", "docs/two.txt", "docs/three.txt"])
    third = fetch(lab, folder, "third", torrent, seeder, out=getter.out)
    expect(torrent, third, names)
    if third.event("finished")["downloaded"] > 900_000:
        raise Failed(f"fetched again: {third.event('finished')}")
    seeder.stop()


@case
def selected_by_the_link(lab, folder):
    """`so=` in a magnet link (BEP 53): one index, and a range that ends nowhere."""
    torrent, seeder = five(lab, folder)
    names = list(torrents.walk(torrent.path))
    link = f"{torrent.magnet}&so=3-18446744073709551615"
    getter = fetch(lab, folder, "range", torrent, seeder, target=link)
    expect(torrent, getter, names[3:])
    getter = fetch(lab, folder, "one", torrent, seeder, target=f"{torrent.magnet}&so=1")
    expect(torrent, getter, names[1:2])
    wrong = Dhtget(lab, folder, (), "wrong")
    wrong.fetch(f"{torrent.magnet}&so=77", "--no-dht", peers=[seeder.address], state=())
    if wrong.process.wait(40) != 28 or os.listdir(wrong.out):
        raise Failed(f"a link that selects nothing: {wrong.process.exit_code}, {os.listdir(wrong.out)}")
    seeder.stop()


@case
def to_stdout(lab, folder):
    """`-o -`: one file through a pipe that is slow, the digest of what came; and a reader that leaves."""
    torrent, seeder = five(lab, folder)
    work = lab.folder(folder, "stdout")
    listen = f"{lab.address()}:0"
    command = [dhtget_binary(), torrent.file, "--no-dht", "--no-lsd", "--peer", seeder.address, "--listen", listen,
               "-d", work, "--select-file", "four.bin", "-q", "-o", "-"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE)
    digest = hashlib.sha1()
    while chunk := run.stdout.read(7_001):
        digest.update(chunk)
    with open(f"{torrent.path}/four.bin", "rb") as whole:
        wanted = hashlib.sha1(whole.read())
    if run.wait(20) or digest.digest() != wanted.digest():
        raise Failed(f"exit code {run.returncode}, sha1 {digest.hexdigest()} instead of {wanted.hexdigest()}")
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.read(10)
    run.stdout.close()
    said = run.stderr.read()
    if run.wait(20) != 141 or said:
        raise Failed(f"a reader that leaves: exit code {run.returncode}, {said!r}")
    if os.listdir(work):
        raise Failed(f"left behind: {os.listdir(work)}")
    seeder.stop()


@case
def in_order_from_libtorrent(lab, folder):
    """--sequential with a file that comes first: every byte right."""
    torrent, seeder = five(lab, folder)
    getter = fetch(lab, folder, "getter", torrent, seeder, "--sequential", "--priority-high", "five.iso")
    expect(torrent, getter, list(torrents.walk(torrent.path)))
    seeder.stop()


def with_pads(torrent):
    """libtorrent's own torrent of the folder, each file padded to a whole piece (BEP 47)."""
    import libtorrent as lt
    files = lt.file_storage()
    lt.add_files(files, torrent.path)
    maker = lt.create_torrent(files, PIECE, lt.create_torrent.v1_only | lt.create_torrent.canonical_files)
    lt.set_piece_hashes(maker, torrent.parent)
    entry = maker.generate()
    torrent.info_hash = hashlib.sha1(lt.bencode(entry[b"info"])).hexdigest()
    torrent.file = f"{torrent.parent}/{torrent.info_hash}.torrent"
    with open(torrent.file, "wb") as out:
        out.write(lt.bencode(entry))
    if not any(b"p" in f.get(b"attr", b"") for f in entry[b"info"][b"files"]):
        raise Failed("libtorrent made no pad files")


@case
def padded_by_libtorrent(lab, folder):
    """A torrent with pad files (BEP 47): whole, and one file of it; no pad appears."""
    torrent, seeder = five(lab, folder, with_pads)
    names = list(torrents.walk(torrent.path))
    expect(torrent, fetch(lab, folder, "whole", torrent, seeder, target=torrent.magnet), names)
    expect(torrent, fetch(lab, folder, "one", torrent, seeder, "--select-file", "four.bin"), ["four.bin"])
    seeder.stop()
