"""docs/format.md section 1: integers, transcripts, hashes, HKDF, the group's encodings, and the reader of bytes."""

import hashlib
import hmac

import ristretto255 as group


class Refused(ValueError):
    """The format refuses an input. `reason` is one of a few fixed words, for tests to compare."""

    def __init__(self, reason, detail=""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def require(condition, reason, detail=""):
    if not condition:
        raise Refused(reason, detail)


def u8(x):
    return x.to_bytes(1, "big")


def u32(x):
    return x.to_bytes(4, "big")


def u64(x):
    return x.to_bytes(8, "big")


def LP(x):
    return u32(len(x)) + x


def T(purpose, *fields):
    return LP(b"quorate/v1/" + purpose.encode("ascii")) + b"".join(map(LP, fields))


def H(purpose, *fields):
    return hashlib.sha512(T(purpose, *fields)).digest()


def H32(purpose, *fields):
    return H(purpose, *fields)[:32]


def hkdf_extract(hash_name, salt, ikm):
    """RFC 5869 section 2.2. HMAC pads an empty salt with zeros itself."""
    return hmac.new(salt, ikm, hash_name).digest()


def hkdf_expand(hash_name, prk, info, length):
    """RFC 5869 section 2.3."""
    out = block = b""
    counter = 1
    while len(out) < length:
        block = hmac.new(prk, block + info + u8(counter), hash_name).digest()
        out += block
        counter += 1
    return out[:length]


def extract256(salt, ikm):
    return hkdf_extract("sha256", salt, ikm)


def expand256(prk, info, length):
    return hkdf_expand("sha256", prk, info, length)


def extract512(salt, ikm):
    return hkdf_extract("sha512", salt, ikm)


def expand512(prk, info, length):
    return hkdf_expand("sha512", prk, info, length)


def wide(x):
    return int.from_bytes(x, "little") % group.ORDER


def HS(purpose, *fields):
    return wide(H(purpose, *fields))


def HP(purpose, *fields):
    return group.from_uniform(H(purpose, *fields))


def scalar(x):
    return x.to_bytes(32, "little")


def scalar_from(data, what="scalar"):
    x = int.from_bytes(data, "little")
    require(len(data) == 32 and x < group.ORDER, "malformed", what)
    return x


def point_from(data, what="point"):
    """A canonical encoding that is not the identity's."""
    point = group.decode(data)
    require(point is not None and not group.equal(point, group.IDENTITY), "malformed", what)
    return point


class Reader:
    """Reads the fields of one byte string and refuses what is short or left over."""

    def __init__(self, data, what):
        self.data, self.at, self.what = bytes(data), 0, what

    def take(self, n):
        require(self.at + n <= len(self.data), "malformed", f"{self.what} is short")
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, n):
        return int.from_bytes(self.take(n), "big")

    def lp(self, length=None):
        n = self.number(4)
        require(length is None or n == length, "malformed", f"a field of {self.what} has {n} bytes")
        return self.take(n)

    def end(self):
        require(self.at == len(self.data), "malformed", f"{self.what} goes on after its end")
