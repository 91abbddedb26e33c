"""Ed25519 in a page (RFC 8032), for probes that sign, and for the same key in programs that store it differently.

Owns nothing but arithmetic; slow, and made for tests only: it leaks its secrets through time.
"""

import hashlib

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def _recover_x(y):
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return P - x if x & 1 else x


def _add(a, b):
    """Sum of two points as (X, Y, Z) with x = X/Z, y = Y/Z."""
    (x1, y1, z1), (x2, y2, z2) = a, b
    z, x, y = z1 * z2 % P, x1 * x2 % P, y1 * y2 % P
    e, zz = D * x * y % P, z * z % P
    f, g = (zz - e) % P, (zz + e) % P
    cross = ((x1 + y1) * (x2 + y2) - x - y) % P
    return z * f * cross % P, z * g * (y + x) % P, f * g % P


def _times(point, number):
    result = (0, 1, 1)
    while number:
        if number & 1:
            result = _add(result, point)
        point = _add(point, point)
        number >>= 1
    return result


def _encoded(point):
    x, y, z = point
    inverse = pow(z, -1, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


_Y = 4 * pow(5, -1, P) % P
BASE = (_recover_x(_Y), _Y, 1)


def expanded(seed):
    """The 64 bytes that libtorrent calls the secret key: the clamped scalar and the prefix."""
    digest = bytearray(hashlib.sha512(seed).digest())
    digest[0] &= 248
    digest[31] = digest[31] & 63 | 64
    return bytes(digest)


def public(seed):
    return _encoded(_times(BASE, int.from_bytes(expanded(seed)[:32], "little")))


def sign(seed, message):
    secret, key = expanded(seed), public(seed)
    scalar = int.from_bytes(secret[:32], "little")

    def hashed(*parts):
        return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % ORDER

    nonce = hashed(secret[32:], message)
    commitment = _encoded(_times(BASE, nonce))
    return commitment + ((nonce + hashed(commitment, key, message) * scalar) % ORDER).to_bytes(32, "little")
