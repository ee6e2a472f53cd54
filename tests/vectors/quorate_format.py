"""Quorate's sealed format, version 1, a second time.

Written from docs/format.md alone, so that the page and the Rust code check each other. Section numbers in comments are the
page's. Standard library only, and the arithmetic of the modules beside it. Nothing here is constant-time and nothing is
wiped: this is for checking vectors, never for keeping secrets.

Here are sections 2 to 12 and the partials of 13; section 1 is conventions.py, the proofs of 13 are dleq.py, 14 is keyfile.py.
"""

import hmac
from dataclasses import dataclass, replace

import mlkem768
import p256
import ristretto255 as group
import xchacha
from conventions import (
    HP, HS, LP, H, H32, Reader, Refused, T, expand256, expand512, extract256, extract512, point_from, require, scalar,
    scalar_from, u8, u32, u64, wide,
)

PAYLOAD_SUITE = 1
WRAP_SUITE = 1
HYBRID, CLASSIC = 1, 2  # part_suite
MAX_PLAINTEXT = 1_048_576
MAX_PARTS = 8
MIN_THRESHOLD, MAX_MEMBERS = 2, 255


# ---- section 2: names and limits ---------------------------------------------------------------------------------------


def check_path(path, limit, what):
    require(1 <= len(path) <= limit, "malformed", f"{what} has {len(path)} bytes")
    try:
        path.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise Refused("malformed", f"{what} is not UTF-8") from None
    require(not any(b <= 0x1F or b == 0x7F for b in path), "malformed", f"{what} has a control byte")
    require(not any(s in (b"", b".", b"..") for s in path.split(b"/")), "malformed", f"a segment of {what}")


def check_name(name, limit, what):
    require(1 <= len(name) <= limit and all(0x21 <= b <= 0x7E for b in name), "malformed", what)


def padded_len(n):
    size = n + 8
    if size <= 65_536:
        result = 64
        while result < size:
            result *= 2
        return result
    return -(-size // 65_536) * 65_536


PADDED_LENGTHS = {64 << i for i in range(11)} | {65_536 * i for i in range(1, 18)}


# ---- section 3: keys and their ids -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keyring:
    y: bytes

    def __post_init__(self):
        point = point_from(self.y, "Y")
        ident = H32("keyring-id", self.y)
        object.__setattr__(self, "point", point)
        object.__setattr__(self, "id", ident)
        object.__setattr__(self, "gbar", HP("gbar", ident))


CT_BYTES = {HYBRID: p256.POINT_BYTES + mlkem768.CT_BYTES, CLASSIC: p256.POINT_BYTES}


def p256_point_from(data, what):
    point = p256.decode(data)
    require(point is not None, "malformed", what)
    return point


@dataclass(frozen=True)
class CustomerPublic:
    part_suite: int
    pk: bytes

    @classmethod
    def decode(cls, data):
        reader = Reader(data, "customer public key")
        suite = reader.number(1)
        require(suite in CT_BYTES, "unknown suite", f"part_suite {suite}")
        pk = reader.take(p256.POINT_BYTES)
        p256_point_from(pk, "C")
        if suite == HYBRID:
            ek = reader.take(mlkem768.EK_BYTES)
            require(mlkem768.valid_ek(ek), "malformed", "ek")
            pk += ek
        reader.end()
        return cls(suite, pk)

    def encode(self):
        return u8(self.part_suite) + self.pk

    @property
    def id(self):
        return H32("cust-key-id", u8(self.part_suite), self.pk)


@dataclass(frozen=True)
class CustomerSecret:
    part_suite: int
    c: int
    seed: bytes = b""  # d || z, part_suite 1 only

    @classmethod
    def decode(cls, data):
        reader = Reader(data, "customer secret key")
        suite = reader.number(1)
        require(suite in CT_BYTES, "unknown suite", f"part_suite {suite}")
        c = reader.number(32)
        require(1 <= c < p256.ORDER, "malformed", "c")
        seed = reader.take(mlkem768.SEED_BYTES) if suite == HYBRID else b""
        reader.end()
        return cls(suite, c, seed)

    def encode(self):
        return u8(self.part_suite) + self.c.to_bytes(32, "big") + self.seed

    def public(self):
        pk = p256.encode(p256.mul(self.c, p256.BASE))
        if self.part_suite == HYBRID:
            pk += mlkem768.keygen(self.seed)[0]
        return CustomerPublic(self.part_suite, pk)


# ---- section 4: labels -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObjLabel:
    cluster: bytes
    secret_id: bytes
    version_id: bytes
    created: int
    writer_id: bytes
    padded_len: int

    def encode(self):
        data = (u8(PAYLOAD_SUITE) + self.cluster + self.secret_id + self.version_id + u64(self.created)
                + LP(self.writer_id) + u64(self.padded_len))
        require(ObjLabel.decode(data) == self, "malformed", "H_obj")
        return data

    @classmethod
    def decode(cls, data):
        reader = Reader(data, "H_obj")
        suite = reader.number(1)
        require(suite == PAYLOAD_SUITE, "unknown suite", f"payload_suite {suite}")
        label = cls(reader.take(32), reader.take(16), reader.take(16), reader.number(8), reader.lp(), reader.number(8))
        reader.end()
        check_name(label.writer_id, 256, "writer_id")
        require(label.padded_len in PADDED_LENGTHS, "malformed", f"padded_len {label.padded_len}")
        return label


@dataclass(frozen=True)
class WrapLabel:
    keyring_id: bytes
    namespace: bytes
    path: bytes
    wrap_no: int
    wrapped_by: bytes

    def encode(self):
        data = (u8(WRAP_SUITE) + self.keyring_id + LP(self.namespace) + LP(self.path) + u32(self.wrap_no)
                + LP(self.wrapped_by))
        require(WrapLabel.decode(data) == self, "malformed", "H_wrap")
        return data

    @classmethod
    def decode(cls, data):
        reader = Reader(data, "H_wrap")
        suite = reader.number(1)
        require(suite == WRAP_SUITE, "unknown suite", f"wrap_suite {suite}")
        label = cls(reader.take(32), reader.lp(), reader.lp(), reader.number(4), reader.lp())
        reader.end()
        check_path(label.namespace, 128, "namespace")
        check_path(label.path, 512, "path")
        check_name(label.wrapped_by, 256, "wrapped_by")
        return label


# ---- section 5: payload ------------------------------------------------------------------------------------------------


def dek_commitment(dek):
    return expand256(dek, T("dek"), 32)


def seal_payload(dek, nonce, h_obj, plaintext):
    size = padded_len(len(plaintext))
    padded = (u64(len(plaintext)) + plaintext).ljust(size, b"\0")
    return nonce + xchacha.xchacha_seal(expand256(dek, T("pay"), 32), nonce, H("pay-aad", h_obj), padded)


def payload_hash(payload):
    return H("payload-hash", payload)


# ---- section 6: customer parts -----------------------------------------------------------------------------------------


def _kc_j(suite, shared, h_obj, h_wrap, public, ct):
    info = H("cust-info", h_obj, h_wrap, u8(suite), public.id, public.pk, ct)
    return expand256(extract256(T("cust"), shared), info, 32)


def seal_part(public, r2, m, h_obj, h_wrap):
    """(part, Kc_j) for one customer key. m is None for part_suite 2."""
    point = p256_point_from(public.pk[:p256.POINT_BYTES], "C")
    ct = p256.encode(p256.mul(r2, p256.BASE))
    shared = p256.mul(r2, point)[0].to_bytes(32, "big")
    if public.part_suite == HYBRID:
        ss, kem_ct = mlkem768.encaps(public.pk[p256.POINT_BYTES:], m)
        ct += kem_ct
        shared += ss
    part = u8(public.part_suite) + public.id + LP(ct)
    return part, _kc_j(public.part_suite, shared, h_obj, h_wrap, public, ct)


def answer_part(secret, part, h_obj, h_wrap):
    """Kc_j as the holder of the customer key computes it."""
    public = secret.public()
    require((part.part_suite, part.cust_key_id) == (secret.part_suite, public.id), "customer", "another key's part")
    point = p256_point_from(part.ct[:p256.POINT_BYTES], "R2")
    shared = p256.mul(secret.c, point)[0].to_bytes(32, "big")
    if part.part_suite == HYBRID:
        shared += mlkem768.decaps(mlkem768.keygen(secret.seed)[1], part.ct[p256.POINT_BYTES:])
    return _kc_j(part.part_suite, shared, h_obj, h_wrap, public, part.ct)


def combine_kcs(kcs):
    if not kcs:
        return bytes(32)
    return extract256(T("all"), b"".join(map(LP, kcs)))


# ---- section 7: wrap ---------------------------------------------------------------------------------------------------


def kek_and_kc(ss1, kc, h_obj, h_wrap, y, parts, kem):
    prk = extract256(T("kem"), ss1 + kc)
    both = expand256(prk, H("kek", h_obj, h_wrap, y, parts, kem), 64)
    return both[:32], both[32:]


def wdek_aad(h_obj, h_wrap):
    return H("wdek", h_obj, h_wrap)


# ---- sections 8 and 9: proof and header --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    part_suite: int
    cust_key_id: bytes
    ct: bytes


@dataclass(frozen=True)
class Header:
    raw: bytes
    h_obj: bytes
    h_wrap: bytes
    obj: ObjLabel
    wrap: WrapLabel
    payload_hash: bytes
    dek_commitment: bytes
    kem: bytes
    parts_raw: bytes
    parts: tuple
    kc: bytes
    wdek: bytes
    commitments: bytes  # A || Abar
    header_f: bytes
    f: int

    @classmethod
    def decode(cls, raw):
        """Section 11, from the bytes alone."""
        raw = bytes(raw)
        # section 15: byte 4 is read first, whatever follows
        require(len(raw) > 4, "malformed", "header is short")
        require(raw[4] == PAYLOAD_SUITE, "unknown suite", f"payload_suite {raw[4]}")
        reader = Reader(raw, "header")
        h_obj, h_wrap = reader.lp(), reader.lp()
        obj, wrap = ObjLabel.decode(h_obj), WrapLabel.decode(h_wrap)
        pay_hash, commitment, kem, slots = reader.lp(64), reader.lp(32), reader.lp(64), reader.lp()
        commitments = reader.lp(64)
        header_f = raw[:reader.at]
        f = scalar_from(reader.lp(32), "f")
        reader.end()
        parts_raw, parts, kc, wdek = _decode_slots(slots)
        for name, data in (("R", kem[:32]), ("Rbar", kem[32:]), ("A", commitments[:32]), ("Abar", commitments[32:])):
            point_from(data, name)
        return cls(raw, h_obj, h_wrap, obj, wrap, pay_hash, commitment, kem, parts_raw, parts, kc, wdek, commitments,
                   header_f, f)

    @property
    def hash(self):
        return H("header", self.raw)

    @property
    def r(self):
        return group.decode(self.kem[:32])

    def equation_points(self):
        """(R, Rbar, A, Abar)."""
        halves = (self.kem[:32], self.kem[32:], self.commitments[:32], self.commitments[32:])
        return [group.decode(x) for x in halves]

    def challenge(self):
        return HS("tdh2", self.wrap.keyring_id, self.header_f)

    def proof_holds(self, keyring):
        r, rbar, a, abar = self.equation_points()
        e = self.challenge()
        return (group.equal(group.mul(self.f, group.BASE), group.add(a, group.mul(e, r)))
                and group.equal(group.mul(self.f, keyring.gbar), group.add(abar, group.mul(e, rbar))))


def _decode_slots(slots):
    reader = Reader(slots, "slots")
    count = reader.number(1)
    require(count == 1, "malformed", f"{count} slots")
    start = reader.at
    m = reader.number(1)
    require(m <= MAX_PARTS, "malformed", f"{m} parts")
    parts = []
    for _ in range(m):
        suite = reader.number(1)
        require(suite in CT_BYTES, "unknown suite", f"part_suite {suite}")
        part = Part(suite, reader.take(32), reader.lp(CT_BYTES[suite]))
        p256_point_from(part.ct[:p256.POINT_BYTES], "R2")
        require(not parts or parts[-1].cust_key_id < part.cust_key_id, "malformed", "order of parts")
        parts.append(part)
    parts_raw = slots[start:reader.at]
    kc, wdek = reader.take(32), reader.take(48)
    reader.end()
    return parts_raw, tuple(parts), kc, wdek


# ---- section 10: sealing -----------------------------------------------------------------------------------------------


def _r2(seed, ctx_wrap, cust_key_id):
    for c in range(256):
        r2 = int.from_bytes(expand512(seed, T("fresh-r2", ctx_wrap, cust_key_id, u8(c)), 32), "big")
        if 1 <= r2 < p256.ORDER:
            return r2
    raise Refused("randomness", "no r2")


def _wrap(seed, fresh_w, keyring, customers, dek, h_obj, wrap, pay_hash, commitment):
    """Section 10 from ctx_wrap on: the header."""
    require(wrap.keyring_id == keyring.id, "keyring")
    require(len(fresh_w) == 32, "randomness", "fresh_w has 32 bytes")
    h_wrap = wrap.encode()
    ctx_wrap = H("fresh-wrap", dek, h_obj, h_wrap, pay_hash)
    r = wide(expand512(seed, T("fresh-r", ctx_wrap), 64))
    require(r != 0, "randomness", "r")
    parts, kcs = [], []
    ordered = sorted(customers, key=lambda public: public.id)
    require(len(ordered) <= MAX_PARTS and len({x.id for x in ordered}) == len(ordered), "malformed", "customer keys")
    for public in ordered:
        m = expand512(seed, T("fresh-m", ctx_wrap, public.id), 32) if public.part_suite == HYBRID else None
        part, kc_j = seal_part(public, _r2(seed, ctx_wrap, public.id), m, h_obj, h_wrap)
        parts.append(part)
        kcs.append(kc_j)
    parts_raw = u8(len(parts)) + b"".join(parts)
    kem = group.encode(group.mul(r, group.BASE)) + group.encode(group.mul(r, keyring.gbar))
    ss1 = group.encode(group.mul(r, keyring.point))
    kek, kc = kek_and_kc(ss1, combine_kcs(kcs), h_obj, h_wrap, keyring.y, parts_raw, kem)
    wdek = xchacha.chacha_seal(kek, bytes(12), wdek_aad(h_obj, h_wrap), dek)
    slots = u8(1) + parts_raw + kc + wdek
    header_a = b"".join(map(LP, (h_obj, h_wrap, pay_hash, commitment, kem, slots)))
    w = HS("w", fresh_w, scalar(r), header_a)
    require(w != 0, "randomness", "w")
    commitments = group.encode(group.mul(w, group.BASE)) + group.encode(group.mul(w, keyring.gbar))
    header_f = header_a + LP(commitments)
    e = HS("tdh2", keyring.id, header_f)
    f = (w + r * e) % group.ORDER
    return header_f + LP(scalar(f))


def seal(keyring, customers, obj, wrap, plaintext, fresh, fresh_w):
    """(header, payload). obj's padded_len is set here. `customers` are CustomerPublic in any order."""
    require(1 <= len(plaintext) <= MAX_PLAINTEXT, "malformed", "plaintext")
    require(len(fresh) == 64, "randomness", "fresh has 64 bytes")
    h_obj = replace(obj, padded_len=padded_len(len(plaintext))).encode()
    seed = extract512(T("fresh"), fresh)
    ctx_obj = H("fresh-obj", plaintext, h_obj)
    dek = expand512(seed, T("fresh-dek", ctx_obj), 32)
    nonce = expand512(seed, T("fresh-nonce", ctx_obj), 24)
    payload = seal_payload(dek, nonce, h_obj, plaintext)
    header = _wrap(seed, fresh_w, keyring, customers, dek, h_obj, wrap, payload_hash(payload), dek_commitment(dek))
    return header, payload


def rewrap(old, dek, keyring, customers, wrap, fresh, fresh_w):
    """A new header for the payload of `old` (a Header), whose DEK came from opening."""
    seed = extract512(T("fresh"), fresh)
    return _wrap(seed, fresh_w, keyring, customers, dek, old.h_obj, wrap, old.payload_hash, old.dek_commitment)


# ---- section 11: checks on acceptance ----------------------------------------------------------------------------------


def accept(raw, payload, keyring, key_class, customers):
    """The Header, if every check of section 11 passes. `customers`: what the state names, as CustomerPublic."""
    header = Header.decode(raw)
    require(header.wrap.keyring_id == keyring.id, "keyring")
    require((key_class == "customer") == bool(header.parts), "class")
    named = sorted((x.id, x.part_suite) for x in customers)
    require([(p.cust_key_id, p.part_suite) for p in header.parts] == named, "customer keys")
    _check_payload(header, payload)
    require(header.proof_holds(keyring), "proof")
    return header


def _check_payload(header, payload):
    require(len(payload) == 24 + header.obj.padded_len + 16, "payload", "length")
    require(payload_hash(payload) == header.payload_hash, "payload", "hash")


def batch_holds(items):
    """The batch equation over [(Header, Keyring)]."""
    b = H("batch", *[header.raw for header, _ in items])
    total = group.IDENTITY
    for i, (header, keyring) in enumerate(items):
        v = H("batch-weight", b, u32(i))
        z, z_bar = int.from_bytes(v[:16], "little"), int.from_bytes(v[16:32], "little")
        r, rbar, a, abar = header.equation_points()
        e = header.challenge()
        for weight, base, commitment, element in ((z, group.BASE, a, r), (z_bar, keyring.gbar, abar, rbar)):
            total = group.add(total, group.mul(weight * header.f, base))
            total = group.add(total, group.neg(group.mul(weight, commitment)))
            total = group.add(total, group.neg(group.mul(weight * e, element)))
    return group.equal(total, group.IDENTITY)


# ---- section 12: opening -----------------------------------------------------------------------------------------------


def open_dek(header, payload, keyring, ss1, kcs):
    """Steps 1 to 5: the DEK."""
    require(header.wrap.keyring_id == keyring.id and len(kcs) == len(header.parts), "keyring")
    _check_payload(header, payload)
    kek, kc = kek_and_kc(ss1, combine_kcs(kcs), header.h_obj, header.h_wrap, keyring.y, header.parts_raw, header.kem)
    require(hmac.compare_digest(kc, header.kc), "key commitment")
    dek = xchacha.chacha_open(kek, bytes(12), wdek_aad(header.h_obj, header.h_wrap), header.wdek)
    require(dek is not None, "wdek")
    require(dek_commitment(dek) == header.dek_commitment, "dek commitment")
    return dek


def open_sealed(header, payload, keyring, ss1, kcs):
    """The plaintext. kcs in the order of the slot."""
    dek = open_dek(header, payload, keyring, ss1, kcs)
    padded = xchacha.xchacha_open(expand256(dek, T("pay"), 32), payload[:24], H("pay-aad", header.h_obj), payload[24:])
    require(padded is not None, "payload tag")
    n = int.from_bytes(padded[:8], "big")
    require(1 <= n <= MAX_PLAINTEXT and padded_len(n) == header.obj.padded_len, "true length")
    require(not any(padded[8 + n:]), "padding")
    return padded[8:8 + n]


# ---- section 13: partials and combining ---------------------------------------------------------------------------------


def partial(share, header):
    return group.encode(group.mul(share, header.r))


def lagrange_at_zero(indices):
    require(all(1 <= i <= MAX_MEMBERS for i in indices) and len(set(indices)) == len(indices), "malformed", "indices")
    out = []
    for i in indices:
        num = den = 1
        for j in indices:
            if j != i:
                num = num * j % group.ORDER
                den = den * (j - i) % group.ORDER
        out.append(num * pow(den, -1, group.ORDER) % group.ORDER)
    return out


def combine(partials):
    """SS1 from t or more of [(index, 32 bytes)]."""
    pairs = list(partials)
    require(len(pairs) >= 2, "malformed", "fewer than two partials")
    total = group.IDENTITY
    for factor, (_, data) in zip(lagrange_at_zero([i for i, _ in pairs]), pairs):
        total = group.add(total, group.mul(factor, point_from(data, "partial")))
    require(not group.equal(total, group.IDENTITY), "malformed", "the combined point is the identity")
    return group.encode(total)
