"""docs/format.md section 13, the proof that partials are right: the DLEQ of RFC 9497 section 2.2 over ristretto255.

The functions that end in _with take the whole context string, so that the vectors of RFC 9497 test them.
"""

import hashlib

import ristretto255 as group
from conventions import HS, H32, point_from, require, scalar, scalar_from, u8, wide


def expand_message_xmd(message, dst, length):
    """RFC 9380 section 5.3.1 with SHA-512."""
    ell = -(-length // 64)
    require(ell <= 255 and len(dst) <= 255, "malformed", "expand_message_xmd")
    dst_prime = dst + u8(len(dst))
    b0 = hashlib.sha512(bytes(128) + message + length.to_bytes(2, "big") + b"\0" + dst_prime).digest()
    block = hashlib.sha512(b0 + b"\x01" + dst_prime).digest()
    out = block
    for i in range(2, ell + 1):
        block = hashlib.sha512(bytes(x ^ y for x, y in zip(b0, block)) + u8(i) + dst_prime).digest()
        out += block
    return out[:length]


def context_string_of(context):
    return b"quorate/v1/dleq-" + H32("dleq-context", context)


def _i2osp2(x):
    return x.to_bytes(2, "big")


def _lp2(x):
    return _i2osp2(len(x)) + x


def _hash_to_scalar(data, context_string):
    return wide(expand_message_xmd(data, b"HashToScalar-" + context_string, 64))


def _composites(b, pairs, context_string):
    """RFC 9497 ComputeComposites: (seed, M, Z), the last two as points."""
    require(1 <= len(pairs) <= 256, "malformed", "pairs")
    seed = hashlib.sha512(_lp2(b) + _lp2(b"Seed-" + context_string)).digest()
    m = z = group.IDENTITY
    for i, (c, d) in enumerate(pairs):
        weight = _hash_to_scalar(_lp2(seed) + _i2osp2(i) + _lp2(c) + _lp2(d) + b"Composite", context_string)
        m = group.add(m, group.mul(weight, point_from(c, "C_i")))
        z = group.add(z, group.mul(weight, point_from(d, "D_i")))
    return seed, m, z


def _challenge(b, m, z, t2, t3, context_string):
    points = b"".join(_lp2(x) for x in (b, *map(group.encode, (m, z, t2, t3))))
    return _hash_to_scalar(points + b"Challenge", context_string)


def prove_with(k, pairs, context_string, rho):
    """RFC 9497 GenerateProof with a given context string and rho. `rho` is a function of seed and M's encoding."""
    b = group.encode(group.mul(k, group.BASE))
    seed, m, z = _composites(b, pairs, context_string)
    nonce = rho(seed, group.encode(m))
    c = _challenge(b, m, z, group.mul(nonce, group.BASE), group.mul(nonce, m), context_string)
    return scalar(c) + scalar((nonce - c * k) % group.ORDER)


def prove(k, pairs, context, random32):
    def rho(seed, m):
        return HS("dleq-nonce", random32, scalar(k), seed, m)

    return prove_with(k, pairs, context_string_of(context), rho)


def holds_with(b, pairs, proof, context_string):
    require(len(proof) == 64, "malformed", "proof")
    c, s = scalar_from(proof[:32], "c"), scalar_from(proof[32:], "s")
    b_point = point_from(b, "B")
    _, m, z = _composites(b, pairs, context_string)
    t2 = group.add(group.mul(s, group.BASE), group.mul(c, b_point))
    t3 = group.add(group.mul(s, m), group.mul(c, z))
    return _challenge(b, m, z, t2, t3, context_string) == c


def holds(y_i, pairs, proof, context):
    """True iff the holder of y_i = k G made every D_i = k C_i of pairs [(C_i, D_i)], points as 32 bytes."""
    return holds_with(y_i, pairs, proof, context_string_of(context))
