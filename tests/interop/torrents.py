"""Payloads and their .torrent files. Owns: bencode, test data, the comparison. Knows no client and no network."""

import hashlib
import os
import random

def bencode(value):
    """Canonical bencode: keys sorted as bytes."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(bencode(item) for item in value) + b"e"
    if isinstance(value, dict):
        pairs = sorted((k.encode() if isinstance(k, str) else k, v) for k, v in value.items())
        return b"d" + b"".join(bencode(k) + bencode(v) for k, v in pairs) + b"e"
    raise TypeError(f"no bencode for {type(value).__name__}")


def bdecode(data):
    """The first value of `data`; keys stay bytes."""
    value, _ = _decode_at(data, 0)
    return value


def _decode_at(data, at):
    kind = data[at : at + 1]
    if kind == b"i":
        end = data.index(b"e", at)
        return int(data[at + 1 : end]), end + 1
    if kind in (b"l", b"d"):
        items, at = [], at + 1
        while data[at : at + 1] != b"e":
            item, at = _decode_at(data, at)
            items.append(item)
        return (items if kind == b"l" else dict(zip(items[::2], items[1::2]))), at + 1
    colon = data.index(b":", at)
    end = colon + 1 + int(data[at:colon])
    return data[colon + 1 : end], end


class Torrent:
    """A folder of test files and, once `pack`ed, its v1 .torrent with whatever piece length is asked for."""

    def __init__(self, parent, name):
        self.parent, self.name = parent, name
        self.path = f"{parent}/{name}"
        self.piece_length = self.file = self.info_hash = None

    @property
    def magnet(self):
        return f"magnet:?xt=urn:btih:{self.info_hash}"

    @property
    def bytes(self):
        return sum(os.path.getsize(p) for p in walk(self.path).values())

    def pack(self, piece_length, private=False):
        files, hashes, pending = [], [], b""
        for relative, path in walk(self.path).items():
            files.append({"length": os.path.getsize(path), "path": relative.split("/")})
            with open(path, "rb") as stream:
                while chunk := stream.read(1 << 20):
                    pending += chunk
                    cut = len(pending) // piece_length * piece_length
                    hashes += [hashlib.sha1(pending[i : i + piece_length]).digest() for i in range(0, cut, piece_length)]
                    pending = pending[cut:]
        assert pending, "the last piece is meant to be a short one"
        hashes.append(hashlib.sha1(pending).digest())
        info = {"name": self.name, "piece length": piece_length, "pieces": b"".join(hashes), "files": files}
        if private:
            info["private"] = 1
        self.piece_length = piece_length
        return self.described(info)

    def described(self, info):
        """Writes the .torrent with this info dictionary."""
        self.info_hash = hashlib.sha1(bencode(info)).hexdigest()
        self.file = f"{self.parent}/{self.info_hash}.torrent"
        with open(self.file, "wb") as out:
            out.write(bencode({"info": info, "created by": "dhtget interop"}))
        return self


def album(parent, seed, size=3_000_000):
    """Nested folders, unicode names (composed, decomposed, other scripts), an empty file, odd sizes."""
    shapes = [
        ("čeština – žluťoučký kůň.txt", 4_321),
        ("decomposed e\u0301 a\u030a.dat", 70_001),
        ("empty.dat", 0),
        ("one byte", 1),
        ("日本語/ファイル 1.bin", size // 3 + 7),
        ("русский/глубоко/ещё/глубже/файл.bin", 65_536),
        ("nested/a/b/c/d/e/😀.bin", size // 2 + 1),
        ("nested/a/second.bin", max(1, size - size // 3 - size // 2 - 139_868)),
    ]
    return write(Torrent(parent, f"Albüm {seed}"), seed, shapes)


def small(parent, seed):
    """A few hundred kilobytes: enough for many pieces, nothing to wait for."""
    return write(Torrent(parent, f"small {seed}"), seed, [("a.bin", 150_001), ("sub/b.bin", 77_777)])


def large(parent, seed, mebibytes):
    shapes = [("big.bin", (mebibytes << 20) * 3 // 4 + 5), ("rest/tail.bin", (mebibytes << 20) // 4 - 1234)]
    return write(Torrent(parent, f"large {seed}"), seed, shapes)


def write(torrent, seed, shapes):
    data = random.Random(f"dhtget {seed}")
    for relative, size in shapes:
        path = f"{torrent.path}/{relative}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as out:
            out.write(data.randbytes(size))
    return torrent


def content(torrent):
    """All its bytes, as its pieces hold them."""
    parts = []
    for path in walk(torrent.path).values():
        with open(path, "rb") as stream:
            parts.append(stream.read())
    return b"".join(parts)


def walk(root):
    """{relative path: path} of every file below `root`, in order of the relative path."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = f"{folder}/{name}"
            found[os.path.relpath(path, root)] = path
    return dict(sorted(found.items()))


def sha256(path):
    with open(path, "rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def differences(expected, got, ignore_extra=(), empty_files=True):
    """Sentences, one for each file that is missing, unexpected or different; empty when the trees are equal."""
    want, have = walk(expected), walk(got)
    if not empty_files:
        want = {name: path for name, path in want.items() if os.path.getsize(path) or name in have}
    said = [f"missing: {name}" for name in want if name not in have]
    said += [f"unexpected: {name}" for name in have if name not in want and not name.endswith(tuple(ignore_extra))]
    for name in want.keys() & have.keys():
        if os.path.getsize(want[name]) != os.path.getsize(have[name]):
            said.append(f"size differs: {name}: {os.path.getsize(have[name])}, not {os.path.getsize(want[name])}")
        elif sha256(want[name]) != sha256(have[name]):
            said.append(f"sha256 differs: {name}")
    return sorted(said)
