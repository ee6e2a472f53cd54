"""ChaCha20-Poly1305 (RFC 8439) and XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), for checking vectors only.

Many ChaCha20 blocks are computed at once: each of the 16 state words is one big integer that has the word of block i
in bits 64 i .. 64 i + 31. Additions and rotations never cross a lane's 64 bits before the mask takes them back to 32.
"""

import hmac

_LANES = 512  # blocks at once
_CONSTANTS = [int.from_bytes(b"expand 32-byte k"[i:i + 4], "little") for i in range(0, 16, 4)]
_QUARTERS = [
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
]


def _words(data):
    return [int.from_bytes(data[i:i + 4], "little") for i in range(0, len(data), 4)]


def _rounds(x, mask):
    """The 20 rounds of RFC 8439 section 2.3, in place, without the final addition."""
    for _ in range(10):
        for a, b, c, d in _QUARTERS:
            xa, xb, xc, xd = x[a], x[b], x[c], x[d]
            xa = xa + xb & mask
            xd ^= xa
            xd = (xd << 16 | xd >> 16) & mask
            xc = xc + xd & mask
            xb ^= xc
            xb = (xb << 12 | xb >> 20) & mask
            xa = xa + xb & mask
            xd ^= xa
            xd = (xd << 8 | xd >> 24) & mask
            xc = xc + xd & mask
            xb ^= xc
            xb = (xb << 7 | xb >> 25) & mask
            x[a], x[b], x[c], x[d] = xa, xb, xc, xd


def chacha20_keystream(key, counter, nonce, blocks):
    """RFC 8439 section 2.4: `blocks` blocks of 64 bytes from block `counter` on."""
    out = bytearray()
    for first in range(counter, counter + blocks, _LANES):
        lanes = min(_LANES, counter + blocks - first)
        ones = int.from_bytes(b"\x01\0\0\0\0\0\0\0" * lanes, "little")
        mask = ones * 0xFFFFFFFF
        counters = int.from_bytes(b"".join(i.to_bytes(8, "little") for i in range(first, first + lanes)), "little")
        start = [w * ones for w in _CONSTANTS + _words(key)] + [counters] + [w * ones for w in _words(nonce)]
        x = list(start)
        _rounds(x, mask)
        chunk = bytearray(64 * lanes)
        view = memoryview(chunk).cast("I")
        for i in range(16):
            word = (x[i] + start[i] & mask).to_bytes(8 * lanes, "little")
            view[i::16] = memoryview(word).cast("I")[::2]
        view.release()
        out += chunk
    return bytes(out)


def hchacha20(key, nonce16):
    """draft-irtf-cfrg-xchacha-03 section 2.2: 32 bytes from a key and 16 bytes."""
    x = _CONSTANTS + _words(key) + _words(nonce16)
    _rounds(x, 0xFFFFFFFF)
    return b"".join(x[i].to_bytes(4, "little") for i in (0, 1, 2, 3, 12, 13, 14, 15))


def poly1305(key, message):
    """RFC 8439 section 2.5."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    p = 2**130 - 5
    acc = 0
    whole = len(message) - len(message) % 16
    for i in range(0, whole, 16):
        acc = (acc + int.from_bytes(message[i:i + 16], "little") + (1 << 128)) * r % p
    if whole < len(message):
        acc = (acc + int.from_bytes(message[whole:] + b"\x01", "little")) * r % p
    return (acc + int.from_bytes(key[16:], "little") & (1 << 128) - 1).to_bytes(16, "little")


def _xor(data, stream):
    n = len(data)
    return (int.from_bytes(data, "little") ^ int.from_bytes(stream[:n], "little")).to_bytes(n, "little")


def _tag(key, nonce, aad, ciphertext):
    """RFC 8439 section 2.8: the one-time key is block 0."""
    pad = lambda x: bytes(-len(x) % 16)
    lengths = len(aad).to_bytes(8, "little") + len(ciphertext).to_bytes(8, "little")
    one_time = chacha20_keystream(key, 0, nonce, 1)[:32]
    return poly1305(one_time, aad + pad(aad) + ciphertext + pad(ciphertext) + lengths)


def chacha_seal(key, nonce, aad, plaintext):
    """ChaCha20-Poly1305: ciphertext || tag."""
    ciphertext = _xor(plaintext, chacha20_keystream(key, 1, nonce, -(-len(plaintext) // 64)))
    return ciphertext + _tag(key, nonce, aad, ciphertext)


def chacha_open(key, nonce, aad, sealed):
    """The plaintext, or None when the tag is wrong."""
    if len(sealed) < 16:
        return None
    ciphertext, tag = sealed[:-16], sealed[-16:]
    if not hmac.compare_digest(tag, _tag(key, nonce, aad, ciphertext)):
        return None
    return _xor(ciphertext, chacha20_keystream(key, 1, nonce, -(-len(ciphertext) // 64)))


def xchacha_seal(key, nonce, aad, plaintext):
    """XChaCha20-Poly1305 with a nonce of 24 bytes."""
    return chacha_seal(hchacha20(key, nonce[:16]), bytes(4) + nonce[16:], aad, plaintext)


def xchacha_open(key, nonce, aad, sealed):
    return chacha_open(hchacha20(key, nonce[:16]), bytes(4) + nonce[16:], aad, sealed)
