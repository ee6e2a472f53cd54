#!/usr/bin/env python3
"""Checks test vectors (docs/format.md section 17) from standard input with the implementation beside this file.

Each is sealed again and compared, its partials, ss1 and kcs are computed again, its proofs verified, and it is opened with
the first t and the last t shares. Then it is damaged in many ways, and each must be refused. Prints `ok N`, or names the
failures on standard error and ends with 1.
"""

import json
import random
import sys

import dleq
import quorate_format as q
import ristretto255 as group
from conventions import Refused, require, scalar, scalar_from, u8

FLIPS = 12  # random places of the header, and as many of the payload, besides the fixed ones


class Failures(list):
    """What went wrong with one vector."""

    def same(self, field, got, wanted):
        if got != wanted:
            self.append(f"{field}: {describe_difference(got, wanted)}")

    def refuses(self, what, reasons, action):
        """`action` must raise Refused, with one of `reasons` unless that is None."""
        try:
            action()
        except Refused as refused:
            if reasons is not None and refused.reason not in reasons:
                self.append(f"{what}: refused as '{refused}', not as {' or '.join(reasons)}")
        else:
            self.append(f"{what}: was not refused")

    def holds(self, what, condition):
        if not condition:
            self.append(what)


def describe_difference(got, wanted):
    if not isinstance(got, bytes) or not isinstance(wanted, bytes):
        return f"is {wanted!r}, should be {got!r}"
    if len(got) != len(wanted):
        return f"has {len(wanted)} bytes, should have {len(got)}"
    at = next(i for i, (a, b) in enumerate(zip(got, wanted)) if a != b)
    return f"differs from byte {at} on: has {wanted[at:at + 16].hex()}, should have {got[at:at + 16].hex()}"


def unhex(text, length=None):
    data = bytes.fromhex(text)
    require(data.hex() == text, "malformed", "hex is not lower-case")
    require(length is None or len(data) == length, "malformed", f"{len(data)} bytes where {length} belong")
    return data


class Vector:
    """One vector with its bytes decoded."""

    def __init__(self, record):
        self.key_class, self.t, self.n = record["class"], record["t"], record["n"]
        self.keyring = q.Keyring(unhex(record["y"], 32))
        self.keyring_id = unhex(record["keyring_id"], 32)
        self.shares = [(x["index"], scalar_from(unhex(x["secret"], 32), "share")) for x in record["shares"]]
        self.secrets = [q.CustomerSecret.decode(unhex(x["secret"])) for x in record["customers"]]
        self.publics = [q.CustomerPublic.decode(unhex(x["public"])) for x in record["customers"]]
        self.fresh, self.fresh_w = unhex(record["fresh"], 64), unhex(record["fresh_w"], 32)
        self.plaintext = unhex(record["plaintext"])
        self.header, self.payload = unhex(record["header"]), unhex(record["payload"])
        self.header_hash = unhex(record["header_hash"], 64)
        self.partials = [(x["index"], unhex(x["point"], 32)) for x in record["partials"]]
        self.ss1 = unhex(record["ss1"], 32)
        self.kcs = [(unhex(x["cust_key_id"], 32), unhex(x["kc"], 32)) for x in record["kcs"]]
        proof = record["dleq"]
        self.dleq_index = proof["index"]
        self.dleq_context, self.dleq_proof = unhex(proof["context"]), unhex(proof["proof"], 64)
        obj, wrap = record["obj"], record["wrap"]
        self.obj = q.ObjLabel(
            unhex(obj["cluster"], 32), unhex(obj["secret_id"], 16), unhex(obj["version_id"], 16), obj["created"],
            obj["writer_id"].encode(), q.padded_len(len(self.plaintext)))
        self.wrap = q.WrapLabel(
            self.keyring.id, wrap["namespace"].encode(), wrap["path"].encode(), wrap["wrap_no"],
            wrap["wrapped_by"].encode())


def check_keys(v, failures):
    failures.same("keyring_id", v.keyring.id, v.keyring_id)
    failures.holds("class: is neither cluster nor customer", v.key_class in ("cluster", "customer"))
    failures.holds("class: does not go with the customers", (v.key_class == "customer") == bool(v.publics))
    failures.holds("t, n: out of bounds", q.MIN_THRESHOLD <= v.t <= v.n <= q.MAX_MEMBERS)
    failures.same("shares: indices", list(range(1, v.n + 1)), [i for i, _ in v.shares])
    for name, subset in (("first", v.shares[:v.t]), ("last", v.shares[-v.t:])):
        secret = sum(w * s for w, (_, s) in zip(q.lagrange_at_zero([i for i, _ in subset]), subset))
        failures.same(f"y: from the {name} t shares", group.encode(group.mul(secret, group.BASE)), v.keyring.y)
    for secret, public in zip(v.secrets, v.publics):
        failures.same("customers: public", secret.public().encode(), public.encode())


def check_sealing(v, failures):
    """Seals again and compares; names the field of the header that differs."""
    raw, payload = q.seal(v.keyring, v.publics, v.obj, v.wrap, v.plaintext, v.fresh, v.fresh_w)
    failures.same("payload", payload, v.payload)
    if raw != v.header:
        mine, theirs = q.Header.decode(raw), q.Header.decode(v.header)
        for name in ("h_obj", "h_wrap", "payload_hash", "dek_commitment", "kem", "parts_raw", "kc", "wdek", "commitments"):
            failures.same(f"header: {name}", getattr(mine, name), getattr(theirs, name))
        failures.same("header", raw, v.header)


def check_opening(v, header, failures):
    failures.same("header_hash", header.hash, v.header_hash)
    partials = [(i, q.partial(share, header)) for i, share in v.shares]
    failures.same("partials", partials, v.partials)
    by_id = {public.id: secret for public, secret in zip(v.publics, v.secrets)}
    kcs = [(p.cust_key_id, q.answer_part(by_id[p.cust_key_id], p, header.h_obj, header.h_wrap)) for p in header.parts]
    failures.same("kcs", kcs, v.kcs)
    answers = [kc for _, kc in kcs]
    for name, subset in (("first", partials[:v.t]), ("last", partials[-v.t:])):
        ss1 = q.combine(subset)
        failures.same(f"ss1: from the {name} t shares", ss1, v.ss1)
        opened = q.open_sealed(header, v.payload, v.keyring, ss1, answers)
        failures.same(f"plaintext: opened with the {name} t shares", opened, v.plaintext)


def check_dleq(v, header, failures):
    shares = dict(v.shares)
    y_i = group.encode(group.mul(shares[v.dleq_index], group.BASE))
    pairs = [(header.kem[:32], dict(v.partials)[v.dleq_index])]
    failures.holds("dleq: the proof does not hold", dleq.holds(y_i, pairs, v.dleq_proof, v.dleq_context))
    failures.holds("dleq: holds for another context", not dleq.holds(y_i, pairs, v.dleq_proof, v.dleq_context + b"x"))
    wrong = [(pairs[0][0], group.encode(group.add(group.decode(pairs[0][1]), group.BASE)))]
    failures.holds("dleq: holds for another point", not dleq.holds(y_i, wrong, v.dleq_proof, v.dleq_context))


def check_refusals(v, header, failures, rng):
    """Every damage must be refused, and where the page fixes why, for that reason."""
    accept = lambda raw, payload=v.payload, **other: q.accept(
        raw, payload, other.get("keyring", v.keyring), other.get("key_class", v.key_class),
        other.get("customers", v.publics))
    fixed = [0, 3, len(v.header) - 1, len(v.header) - 32, len(v.header) - 36]
    for at in fixed + [rng.randrange(len(v.header)) for _ in range(FLIPS)]:
        bad = bytearray(v.header)
        bad[at] ^= 1 << rng.randrange(8)
        failures.refuses(f"header with byte {at} flipped", None, lambda: accept(bytes(bad)))
    for at in [0, 24, len(v.payload) - 1] + [rng.randrange(len(v.payload)) for _ in range(FLIPS)]:
        bad = bytearray(v.payload)
        bad[at] ^= 1 << rng.randrange(8)
        failures.refuses(f"payload with byte {at} flipped", ["payload"], lambda: accept(v.header, bytes(bad)))
    failures.refuses("payload one byte short", ["payload"], lambda: accept(v.header, v.payload[:-1]))
    for suite in (0, 2, 255):
        raw = v.header[:4] + u8(suite) + v.header[5:]
        failures.refuses(f"payload_suite {suite}", ["unknown suite"], lambda: accept(raw))
    failures.refuses("header and one byte", ["malformed"], lambda: accept(v.header + b"\0"))
    cut = rng.randrange(5, len(v.header))
    failures.refuses(f"header cut to {cut} bytes", ["malformed"], lambda: accept(v.header[:cut]))
    f = v.header[:-32] + scalar((header.f + 1) % group.ORDER)
    failures.refuses("f + 1", ["proof"], lambda: accept(f))
    big = v.header[:-32] + scalar(header.f + group.ORDER)
    failures.refuses("f + l", ["malformed"], lambda: accept(big))
    other = q.Keyring(group.encode(group.double(v.keyring.point)))
    failures.refuses("another keyring", ["keyring"], lambda: accept(v.header, keyring=other))
    flipped = "cluster" if v.key_class == "customer" else "customer"
    failures.refuses("the other class", ["class"], lambda: accept(v.header, key_class=flipped))
    if v.publics:
        failures.refuses("a customer key too few", ["customer keys"], lambda: accept(v.header, customers=v.publics[1:]))
    check_open_refusals(v, header, failures)


def check_open_refusals(v, header, failures):
    answers = [kc for _, kc in v.kcs]
    attempt = lambda ss1=v.ss1, kcs=answers: q.open_sealed(header, v.payload, v.keyring, ss1, kcs)
    wrong = group.encode(group.double(group.decode(v.ss1)))
    failures.refuses("a wrong ss1", ["key commitment"], lambda: attempt(ss1=wrong))
    few = v.partials[:v.t - 1]
    if len(few) >= q.MIN_THRESHOLD:
        failures.refuses("t - 1 partials", ["key commitment"], lambda: attempt(ss1=q.combine(few)))
    else:
        failures.refuses("one partial combined", ["malformed"], lambda: q.combine(few))
        failures.refuses("one partial", ["key commitment"], lambda: attempt(ss1=few[0][1]))
    failures.refuses("a Kc_j too many", ["keyring"], lambda: attempt(kcs=answers + [bytes(32)]))
    if answers:
        bad = [bytes(32)] + answers[1:]
        failures.refuses("a wrong Kc_j", ["key commitment"], lambda: attempt(kcs=bad))
    if len(answers) > 1:
        failures.refuses("Kc_j in another order", ["key commitment"], lambda: attempt(kcs=answers[::-1]))


def check_vector(record, rng):
    """(failures, (Header, Keyring) if the header is acceptable)."""
    failures = Failures()
    try:
        v = Vector(record)
        check_keys(v, failures)
        check_sealing(v, failures)
        header = q.accept(v.header, v.payload, v.keyring, v.key_class, v.publics)
        check_opening(v, header, failures)
        check_dleq(v, header, failures)
        check_refusals(v, header, failures, rng)
    except Refused as refused:
        failures.append(f"refused as '{refused}'")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        failures.append(f"not a vector: {type(error).__name__}: {error}")
    else:
        return failures, (header, v.keyring)
    return failures, None


def check_batch(items):
    """Section 11: the batch equation holds for all headers together, and not when one of them has another f."""
    failures = Failures()
    failures.holds("batch: does not hold", q.batch_holds(items))
    for at in {0, len(items) - 1}:
        header, keyring = items[at]
        forged = q.Header.decode(header.raw[:-32] + scalar((header.f + 1) % group.ORDER))
        failures.holds(f"batch: holds with a forged header {at}",
                       not q.batch_holds(items[:at] + [(forged, keyring)] + items[at + 1:]))
    return failures


def main():
    try:
        records = json.load(sys.stdin.buffer)
    except ValueError as error:
        print(f"standard input is not JSON: {error}", file=sys.stderr)
        return 1
    if not isinstance(records, list) or not records:
        print("standard input is not an array of vectors", file=sys.stderr)
        return 1
    rng = random.Random(17)
    found, items = [], []
    for number, record in enumerate(records):
        failures, item = check_vector(record, rng)
        found += [f"vector {number}: {failure}" for failure in failures]
        if item is not None:
            items.append(item)
    if items:
        found += check_batch(items)
    for failure in found:
        print(failure, file=sys.stderr)
    if found:
        return 1
    print(f"ok {len(records)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
