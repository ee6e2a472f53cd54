"""ristretto255 (RFC 9496) in plain integers: slow, not constant-time, for checking vectors only.

A point is a tuple (x, y, z, t) in extended coordinates of the twisted Edwards curve
-x^2 + y^2 = 1 + d x^2 y^2. This module knows nothing of Quorate; the rule that the identity is
refused when it is decoded belongs to the format and lives there.
"""

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493  # l in the format's page

D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def _is_negative(x):
    return x & 1


def _abs(x):
    return P - x if x & 1 else x


def sqrt_ratio_m1(u, v):
    """RFC 9496 section 4.2, SQRT_RATIO_M1: (was u/v square, the non-negative root)."""
    r = u * pow(v, 3, P) % P * pow(u * pow(v, 7, P) % P, (P - 5) // 8, P) % P
    check = v * r * r % P
    u = u % P
    correct = check == u
    flipped = check == (P - u) % P
    flipped_i = check == (P - u) * SQRT_M1 % P
    if flipped or flipped_i:
        r = r * SQRT_M1 % P
    return correct or flipped, _abs(r)


# RFC 9496 section 4.1. The roots are chosen with the signs that the RFC prints; selftest.py checks the numbers.
SQRT_AD_MINUS_ONE = 25063068953384623474111414158702152701244531502492656460079210482610430750235
INVSQRT_A_MINUS_D = sqrt_ratio_m1(1, -1 - D)[1]
ONE_MINUS_D_SQ = (1 - D * D) % P
D_MINUS_ONE_SQ = (D - 1) ** 2 % P

IDENTITY = (0, 1, 1, 0)


def add(p, q):
    x1, y1, z1, t1 = p
    x2, y2, z2, t2 = q
    a = (y1 - x1) * (y2 - x2) % P
    b = (y1 + x1) * (y2 + x2) % P
    c = 2 * D * t1 * t2 % P
    d = 2 * z1 * z2
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def double(p):
    x, y, z, _ = p
    a = x * x
    b = y * y
    c = 2 * z * z
    e = (x + y) ** 2 - a - b
    g = b - a
    f = g - c
    h = -a - b
    e, f, g, h = e % P, f % P, g % P, h % P
    return e * f % P, g * h % P, f * g % P, e * h % P


def neg(p):
    x, y, z, t = p
    return -x % P, y, z, -t % P


def mul(k, p):
    """k p for any integer k (taken mod the group's order), by windows of four bits."""
    k %= ORDER
    table = [IDENTITY, p]
    for _ in range(14):
        table.append(add(table[-1], p))
    acc = IDENTITY
    for shift in range(252, -1, -4):
        for _ in range(4):
            acc = double(acc)
        digit = k >> shift & 15
        if digit:
            acc = add(acc, table[digit])
    return acc


def equal(p, q):
    """RFC 9496 section 4.3.3."""
    x1, y1, _, _ = p
    x2, y2, _, _ = q
    return (x1 * y2 - y1 * x2) % P == 0 or (y1 * y2 - x1 * x2) % P == 0


def encode(p):
    """RFC 9496 section 4.3.2."""
    x0, y0, z0, t0 = p
    u1 = (z0 + y0) * (z0 - y0) % P
    u2 = x0 * y0 % P
    _, invsqrt = sqrt_ratio_m1(1, u1 * u2 * u2 % P)
    den1 = invsqrt * u1 % P
    den2 = invsqrt * u2 % P
    z_inv = den1 * den2 * t0 % P
    if _is_negative(t0 * z_inv % P):
        x, y = y0 * SQRT_M1 % P, x0 * SQRT_M1 % P
        den_inv = den1 * INVSQRT_A_MINUS_D % P
    else:
        x, y, den_inv = x0, y0, den2
    if _is_negative(x * z_inv % P):
        y = P - y
    return _abs(den_inv * (z0 - y) % P).to_bytes(32, "little")


def decode(data):
    """RFC 9496 section 4.3.1. None for anything but a canonical encoding; the identity decodes."""
    if len(data) != 32:
        return None
    s = int.from_bytes(data, "little")
    if s >= P or _is_negative(s):
        return None
    ss = s * s % P
    u1 = 1 - ss
    u2 = 1 + ss
    u2_sqr = u2 * u2 % P
    v = (-D * u1 * u1 - u2_sqr) % P
    was_square, invsqrt = sqrt_ratio_m1(1, v * u2_sqr % P)
    den_x = invsqrt * u2 % P
    den_y = invsqrt * den_x * v % P
    x = _abs(2 * s * den_x % P)
    y = u1 * den_y % P
    t = x * y % P
    if not was_square or _is_negative(t) or y == 0:
        return None
    return x, y, 1, t


def _map(r0):
    """RFC 9496 section 4.3.4, MAP."""
    r = SQRT_M1 * r0 * r0 % P
    u = (r + 1) * ONE_MINUS_D_SQ % P
    v = (-1 - r * D) * (r + D) % P
    was_square, s = sqrt_ratio_m1(u, v)
    c = P - 1
    if not was_square:
        s = (P - _abs(s * r0 % P)) % P
        c = r
    n = (c * (r - 1) * D_MINUS_ONE_SQ - v) % P
    w0 = 2 * s * v % P
    w1 = n * SQRT_AD_MINUS_ONE % P
    w2 = (1 - s * s) % P
    w3 = (1 + s * s) % P
    return w0 * w3 % P, w2 * w1 % P, w1 * w3 % P, w0 * w2 % P


def from_uniform(data):
    """RFC 9496 section 4.3.4: the element of 64 uniform bytes."""
    if len(data) != 64:
        raise ValueError("the one-way map takes 64 bytes")
    half = [int.from_bytes(data[i:i + 32], "little") % 2**255 % P for i in (0, 32)]
    return add(_map(half[0]), _map(half[1]))


BASE = decode(bytes.fromhex("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76"))
