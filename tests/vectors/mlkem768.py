"""ML-KEM-768 (FIPS 203) in plain Python: slow, not constant-time, for checking vectors only.

Numbers of algorithms in comments are those of FIPS 203. Polynomials are lists of 256 integers mod q.
"""

import hashlib

Q = 3329
N = 256
K, ETA1, ETA2, DU, DV = 3, 2, 2, 10, 4  # table 2, ML-KEM-768

EK_BYTES, CT_BYTES, SS_BYTES, SEED_BYTES = 1184, 1088, 32, 64


def _bitrev7(i):
    return int(f"{i:07b}"[::-1], 2)


ZETAS = [pow(17, _bitrev7(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * _bitrev7(i) + 1, Q) for i in range(128)]


def _encode(bits, poly):
    """Algorithm 5, ByteEncode_d: little-endian bits are a little-endian integer."""
    value = 0
    for x in reversed(poly):
        value = value << bits | x
    return value.to_bytes(32 * bits, "little")


def _decode(bits, data):
    """Algorithm 6, ByteDecode_d, without the reduction mod q for d = 12: its callers say what they need."""
    value = int.from_bytes(data, "little")
    mask = (1 << bits) - 1
    return [value >> (bits * i) & mask for i in range(N)]


def _compress(bits, poly):
    """Section 4.2.1: round(2^d x / q) mod 2^d, halves up."""
    return [((x << bits + 1) + Q) // (2 * Q) & ((1 << bits) - 1) for x in poly]


def _decompress(bits, poly):
    return [(2 * Q * y + (1 << bits)) >> bits + 1 for y in poly]


def _sample_ntt(rho, j, i):
    """Algorithm 7, SampleNTT. The XOF's output is taken in ever longer prefixes until it is enough."""
    length = 168 * 3
    while True:
        stream = hashlib.shake_128(rho + bytes([j, i])).digest(length)
        out = []
        for c in range(0, length - 2, 3):
            d1 = stream[c] | (stream[c + 1] & 15) << 8
            d2 = stream[c + 1] >> 4 | stream[c + 2] << 4
            if d1 < Q:
                out.append(d1)
            if d2 < Q and len(out) < N:
                out.append(d2)
            if len(out) == N:
                return out
        length += 168


def _cbd2(seed, counter):
    """PRF_eta (4.3) and algorithm 8, SamplePolyCBD, for eta = 2."""
    data = hashlib.shake_256(seed + bytes([counter])).digest(128)
    pairs = (0, 1, 1, 2)
    out = []
    for byte in data:
        for nibble in (byte & 15, byte >> 4):
            out.append((pairs[nibble & 3] - pairs[nibble >> 2]) % Q)
    return out


def _ntt(poly):
    """Algorithm 9."""
    f = list(poly)
    i, length = 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta = ZETAS[i]
            i += 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % Q
                f[j + length] = (f[j] - t) % Q
                f[j] = (f[j] + t) % Q
        length //= 2
    return f


def _ntt_inverse(poly):
    """Algorithm 10."""
    f = list(poly)
    i, length = 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta = ZETAS[i]
            i -= 1
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = zeta * (f[j + length] - t) % Q
        length *= 2
    return [x * 3303 % Q for x in f]


def _multiply_accumulate(acc, f, g):
    """acc += f * g in the NTT domain: algorithms 11 and 12."""
    for i in range(128):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        acc[2 * i] = (acc[2 * i] + a0 * b0 + a1 * b1 * GAMMAS[i]) % Q
        acc[2 * i + 1] = (acc[2 * i + 1] + a0 * b1 + a1 * b0) % Q


def _dot(us, vs):
    acc = [0] * N
    for u, v in zip(us, vs):
        _multiply_accumulate(acc, u, v)
    return acc


def _plus(*polys):
    return [sum(xs) % Q for xs in zip(*polys)]


def _matrix(rho):
    """A-hat[i][j] = SampleNTT(rho || j || i)."""
    return [[_sample_ntt(rho, j, i) for j in range(K)] for i in range(K)]


def _pke_keygen(d):
    """Algorithm 13, K-PKE.KeyGen."""
    g = hashlib.sha3_512(d + bytes([K])).digest()
    rho, sigma = g[:32], g[32:]
    a = _matrix(rho)
    s = [_ntt(_cbd2(sigma, i)) for i in range(K)]
    e = [_ntt(_cbd2(sigma, K + i)) for i in range(K)]
    t = [_plus(_dot(a[i], s), e[i]) for i in range(K)]
    return b"".join(_encode(12, x) for x in t) + rho, b"".join(_encode(12, x) for x in s)


def _pke_encrypt(ek, m, r):
    """Algorithm 14, K-PKE.Encrypt."""
    t = [_decode(12, ek[384 * i:384 * (i + 1)]) for i in range(K)]
    a = _matrix(ek[384 * K:])
    y = [_ntt(_cbd2(r, i)) for i in range(K)]
    e1 = [_cbd2(r, K + i) for i in range(K)]
    e2 = _cbd2(r, 2 * K)
    u = [_plus(_ntt_inverse(_dot([a[j][i] for j in range(K)], y)), e1[i]) for i in range(K)]
    mu = _decompress(1, _decode(1, m))
    v = _plus(_ntt_inverse(_dot(t, y)), e2, mu)
    return b"".join(_encode(DU, _compress(DU, x)) for x in u) + _encode(DV, _compress(DV, v))


def _pke_decrypt(dk, c):
    """Algorithm 15, K-PKE.Decrypt."""
    step = 32 * DU
    u = [_ntt(_decompress(DU, _decode(DU, c[step * i:step * (i + 1)]))) for i in range(K)]
    v = _decompress(DV, _decode(DV, c[step * K:]))
    s = [_decode(12, dk[384 * i:384 * (i + 1)]) for i in range(K)]
    w = [(x - y) % Q for x, y in zip(v, _ntt_inverse(_dot(s, u)))]
    return _encode(1, _compress(1, w))


def keygen(seed):
    """Algorithm 16, ML-KEM.KeyGen_internal, from the seed d || z: (ek, dk)."""
    if len(seed) != SEED_BYTES:
        raise ValueError("the seed d || z has 64 bytes")
    ek, dk_pke = _pke_keygen(seed[:32])
    return ek, dk_pke + ek + hashlib.sha3_256(ek).digest() + seed[32:]


def valid_ek(ek):
    """Section 7.2: the type check and the modulus check of an encapsulation key."""
    return len(ek) == EK_BYTES and all(x < Q for i in range(K) for x in _decode(12, ek[384 * i:384 * (i + 1)]))


def encaps(ek, m):
    """Algorithm 17, ML-KEM.Encaps_internal, after the checks of section 7.2: (shared secret, ciphertext)."""
    if not valid_ek(ek) or len(m) != 32:
        raise ValueError("not an ML-KEM-768 encapsulation key and 32 bytes")
    g = hashlib.sha3_512(m + hashlib.sha3_256(ek).digest()).digest()
    return g[:32], _pke_encrypt(ek, m, g[32:])


def decaps(dk, c):
    """Algorithm 18, ML-KEM.Decaps_internal: the shared secret, by implicit rejection when c is no encapsulation."""
    if len(c) != CT_BYTES:
        raise ValueError("an ML-KEM-768 ciphertext has 1088 bytes")
    dk_pke, ek, h, z = dk[:384 * K], dk[384 * K:384 * K + EK_BYTES], dk[-64:-32], dk[-32:]
    m = _pke_decrypt(dk_pke, c)
    g = hashlib.sha3_512(m + h).digest()
    if _pke_encrypt(ek, m, g[32:]) == c:
        return g[:32]
    return hashlib.shake_256(z + c).digest(32)
