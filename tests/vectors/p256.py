"""P-256 (FIPS 186-5, SEC 1) in plain integers: slow, not constant-time, for checking vectors only.

A point is (x, y) in affine coordinates, or None for the point at infinity. Encodings are the uncompressed
ones of SEC 1 section 2.3.3, 65 bytes, and nothing else.
"""

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
BASE = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
POINT_BYTES = 65


def on_curve(x, y):
    return (y * y - (x * x * x - 3 * x + B)) % P == 0


def encode(point):
    if point is None:
        raise ValueError("the point at infinity has no encoding here")
    return b"\x04" + point[0].to_bytes(32, "big") + point[1].to_bytes(32, "big")


def decode(data):
    """The point of 65 bytes, or None if they are no valid uncompressed point."""
    if len(data) != POINT_BYTES or data[0] != 4:
        return None
    x = int.from_bytes(data[1:33], "big")
    y = int.from_bytes(data[33:], "big")
    if x >= P or y >= P or not on_curve(x, y):
        return None
    return x, y


def _double(p):
    """Jacobian doubling for a = -3; z = 0 is infinity."""
    x, y, z = p
    if not z:
        return p
    delta = z * z % P
    gamma = y * y % P
    beta = x * gamma % P
    alpha = 3 * (x - delta) * (x + delta) % P
    x3 = (alpha * alpha - 8 * beta) % P
    z3 = 2 * y * z % P
    y3 = (alpha * (4 * beta - x3) - 8 * gamma * gamma) % P
    return x3, y3, z3


def _add(p, q):
    x1, y1, z1 = p
    x2, y2, z2 = q
    if not z1:
        return q
    if not z2:
        return p
    z1z1 = z1 * z1 % P
    z2z2 = z2 * z2 % P
    u1 = x1 * z2z2 % P
    u2 = x2 * z1z1 % P
    s1 = y1 * z2 * z2z2 % P
    s2 = y2 * z1 * z1z1 % P
    if u1 == u2:
        return _double(p) if s1 == s2 else (1, 1, 0)
    h = u2 - u1
    r = s2 - s1
    hh = h * h % P
    hhh = h * hh % P
    v = u1 * hh % P
    x3 = (r * r - hhh - 2 * v) % P
    y3 = (r * (v - x3) - s1 * hhh) % P
    return x3, y3, h * z1 * z2 % P


def mul(k, point):
    """k times the point, k any integer >= 0."""
    k %= ORDER
    if point is None or k == 0:
        return None
    p = (point[0], point[1], 1)
    table = [(1, 1, 0), p]
    for _ in range(14):
        table.append(_add(table[-1], p))
    acc = (1, 1, 0)
    for shift in range(252, -1, -4):
        for _ in range(4):
            acc = _double(acc)
        acc = _add(acc, table[k >> shift & 15])
    x, y, z = acc
    if not z:
        return None
    inv = pow(z, -1, P)
    inv2 = inv * inv % P
    return x * inv2 % P, y * inv2 * inv % P
