"""Argon2id, version 0x13 (RFC 9106), in plain Python: about 2 ms per KiB and pass, for checking small vectors only."""

import hashlib

_M64 = 2**64 - 1


def _le32(x):
    return x.to_bytes(4, "little")


def _long_hash(length, data):
    """RFC 9106 section 3.3, H'."""
    prefixed = _le32(length) + data
    if length <= 64:
        return hashlib.blake2b(prefixed, digest_size=length).digest()
    v = hashlib.blake2b(prefixed).digest()
    out = v[:32]
    while length - len(out) > 64:
        v = hashlib.blake2b(v).digest()
        out += v[:32]
    return out + hashlib.blake2b(v, digest_size=length - len(out)).digest()


def _gb(v, a, b, c, d):
    """RFC 9106 section 3.6: BLAKE2b's G with multiplications."""
    va, vb, vc, vd = v[a], v[b], v[c], v[d]
    for first, second in ((32, 24), (16, 63)):
        va = va + vb + 2 * (va & 0xFFFFFFFF) * (vb & 0xFFFFFFFF) & _M64
        vd ^= va
        vd = (vd >> first | vd << 64 - first) & _M64
        vc = vc + vd + 2 * (vc & 0xFFFFFFFF) * (vd & 0xFFFFFFFF) & _M64
        vb ^= vc
        vb = (vb >> second | vb << 64 - second) & _M64
    v[a], v[b], v[c], v[d] = va, vb, vc, vd


def _permute(v, i):
    """P on the 16 words whose places are given."""
    for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                       (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
        _gb(v, i[a], i[b], i[c], i[d])


_ROWS = [list(range(16 * r, 16 * r + 16)) for r in range(8)]
_COLUMNS = [[16 * r + 2 * c + k for r in range(8) for k in (0, 1)] for c in range(8)]


def _compress(x, y):
    """RFC 9106 section 3.5, G, on blocks of 128 words."""
    r = [a ^ b for a, b in zip(x, y)]
    q = list(r)
    for places in _ROWS + _COLUMNS:
        _permute(q, places)
    return [a ^ b for a, b in zip(r, q)]


def _block(data):
    return [int.from_bytes(data[i:i + 8], "little") for i in range(0, 1024, 8)]


def argon2id(password, salt, memory_kib, passes, lanes, length, secret=b"", associated=b""):
    """The tag of `length` bytes. RFC 9106 section 3.2; the names there are m, t, p, T, K, X."""
    fields = b"".join(_le32(len(x)) + x for x in (password, salt, secret, associated))
    h0 = hashlib.blake2b(b"".join(map(_le32, (lanes, length, memory_kib, passes, 0x13, 2))) + fields).digest()
    segment = memory_kib // (4 * lanes)
    width = 4 * segment
    memory = [[None] * width for _ in range(lanes)]
    for lane in range(lanes):
        for j in (0, 1):
            memory[lane][j] = _block(_long_hash(1024, h0 + _le32(j) + _le32(lane)))
    for turn in range(passes):
        for part in range(4):
            for lane in range(lanes):
                _fill(memory, turn, part, lane, segment, lanes, passes)
    last = [0] * 128
    for lane in memory:
        last = [a ^ b for a, b in zip(last, lane[-1])]
    return _long_hash(length, b"".join(w.to_bytes(8, "little") for w in last))


def _fill(memory, turn, part, lane, segment, lanes, passes):
    """One segment: RFC 9106 section 3.4. Argon2i's addresses in the first half of the first pass, else Argon2d's."""
    width = 4 * segment
    independent = turn == 0 and part < 2
    zero = [0] * 128
    addresses = zero
    for index in range(segment):
        if independent and index % 128 == 0:
            seed = [turn, lane, part, width * lanes, passes, 2, index // 128 + 1] + [0] * 121
            addresses = _compress(zero, _compress(zero, seed))
        column = part * segment + index
        if turn == 0 and column < 2:
            continue
        previous = memory[lane][column - 1]
        word = addresses[index % 128] if independent else previous[0]
        j1, j2 = word & 0xFFFFFFFF, word >> 32
        other = lane if turn == 0 and part == 0 else j2 % lanes
        if turn == 0:
            start, area = 0, part * segment
        else:
            start, area = (part + 1) * segment % width, width - segment
        if other == lane:
            area += index - 1
        elif index == 0:
            area -= 1
        relative = area - 1 - (area * (j1 * j1 >> 32) >> 32)
        new = _compress(previous, memory[other][(start + relative) % width])
        old = memory[lane][column]
        memory[lane][column] = new if turn == 0 else [a ^ b for a, b in zip(new, old)]
