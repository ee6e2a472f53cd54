#!/usr/bin/env python3
"""Makes test vectors in the form of docs/format.md section 17, the same bytes for the same seed.

    make_vectors.py N [--seed TEXT]     prints an array of N vectors: the cases below in order, then random ones
    make_vectors.py --write             writes python.json beside this file
    make_vectors.py --check             ends with 1 when python.json is not what --write would write
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import dleq
import mlkem768
import p256
import quorate_format as q
import ristretto255 as group
from conventions import scalar

COMMITTED = Path(__file__).with_name("python.json")
COMMITTED_SEED = "quorate python vectors 1"

SPIFFE = "spiffe://example.org/ns/pay/sa/api"
WIDE_PATH = "ünï/" + "路" * 100 + "/" + "🔑" * 50 + "/path"  # 512 bytes, the most
# What a case does not say is small and random. "suites" are the part_suites of the customer keys.
SMALL = [
    {"t": 2, "n": 2, "size": 1},
    {"t": 2, "n": 3, "size": 56},
    {"t": 3, "n": 5, "size": 57},
    {"t": 2, "n": 3, "size": 32, "suites": [q.CLASSIC]},
    {"t": 2, "n": 3, "size": 32, "suites": [q.HYBRID]},
    {"t": 2, "n": 2, "size": 120, "suites": [q.HYBRID, q.CLASSIC]},
    {"t": 3, "n": 4, "size": 121, "suites": [q.CLASSIC, q.CLASSIC]},
    {"t": 3, "n": 3, "size": 7, "suites": [q.HYBRID, q.HYBRID]},
    {"t": 2, "n": 4, "size": 40, "suites": [q.CLASSIC] * 8},
    {"t": 2, "n": 3, "size": 40, "path": WIDE_PATH, "namespace": "näme/space"},
    {"t": 2, "n": 3, "size": 40, "path": "a", "namespace": "é" * 64, "created": 0, "wrap_no": 0, "writer_id": "!",
     "wrapped_by": "~"},
    {"t": 2, "n": 3, "size": 40, "created": 2**53 - 1, "wrap_no": 2**32 - 1, "writer_id": "w" * 256,
     "wrapped_by": "x" * 256, "path": "p" * 512, "namespace": "n" * 128},
    {"t": 2, "n": 3, "size": 9, "path": "a\u0085b/\u2028/.../..x/ /\\\"/\ufeff\uffff/e\u0301", "namespace": ".a",
     "writer_id": "\"\\/", "dleq_context": b""},
    {"t": 5, "n": 9, "size": 1016, "dleq_context": b"\xff" * 300},
    {"t": 2, "n": 3, "size": 4089, "plaintext": b"\0"},
]
LARGE = [
    {"t": 2, "n": 3, "size": 65_528},
    {"t": 2, "n": 3, "size": 65_529, "suites": [q.HYBRID, q.CLASSIC]},
    {"t": 2, "n": 3, "size": 131_064},
    {"t": 2, "n": 3, "size": 131_065},
    {"t": 2, "n": 3, "size": 1_048_576},
]


class Rng:
    """SHAKE-256 of a seed and a counter: the same on every machine and in every version of Python."""

    def __init__(self, seed):
        self.seed, self.counter = seed.encode(), 0

    def bytes(self, n):
        self.counter += 1
        return hashlib.shake_256(self.seed + b"/" + self.counter.to_bytes(8, "big")).digest(n)

    def below(self, n):
        return int.from_bytes(self.bytes(16), "big") % n

    def text(self, alphabet, low, high):
        return "".join(alphabet[self.below(len(alphabet))] for _ in range(low + self.below(high - low + 1)))

    def scalar(self):
        return 1 + int.from_bytes(self.bytes(64), "big") % (group.ORDER - 1)


def _path(rng, limit):
    segments = [rng.text("abcXYZ019-_. é路🔑", 1, 8) for _ in range(1 + rng.below(4))]
    path = "/".join("s" + s for s in segments)
    return path if len(path.encode()) <= limit else "short"


def _customer(rng, suite):
    c = 1 + int.from_bytes(rng.bytes(64), "big") % (p256.ORDER - 1)
    return q.CustomerSecret(suite, c, rng.bytes(mlkem768.SEED_BYTES) if suite == q.HYBRID else b"")


def random_case(rng):
    n = 2 + rng.below(5)
    case = {"t": 2 + rng.below(n - 1), "n": n, "size": 1 + rng.below([64, 600, 9000][rng.below(3)])}
    if rng.below(2):
        case["suites"] = [1 + rng.below(2) for _ in range(1 + rng.below(3))]
    return case


def make_vector(rng, case):
    t, n = case["t"], case["n"]
    polynomial = [rng.scalar() for _ in range(t)]
    shares = {i: sum(a * i**k for k, a in enumerate(polynomial)) % group.ORDER for i in range(1, n + 1)}
    keyring = q.Keyring(group.encode(group.mul(polynomial[0], group.BASE)))
    secrets = [_customer(rng, suite) for suite in case.get("suites", [])]
    plaintext = case["plaintext"] * case["size"] if "plaintext" in case else rng.bytes(case["size"])
    fresh, fresh_w = rng.bytes(64), rng.bytes(32)
    obj = {
        "cluster": rng.bytes(32), "secret_id": rng.bytes(16), "version_id": rng.bytes(16),
        "created": case.get("created", rng.below(2**53)), "writer_id": case.get("writer_id", SPIFFE),
    }
    wrap = {
        "namespace": case.get("namespace", _path(rng, 128)), "path": case.get("path", _path(rng, 512)),
        "wrap_no": case.get("wrap_no", rng.below(1000)), "wrapped_by": case.get("wrapped_by", SPIFFE),
    }
    obj_label = q.ObjLabel(obj["cluster"], obj["secret_id"], obj["version_id"], obj["created"],
                           obj["writer_id"].encode(), q.padded_len(len(plaintext)))
    wrap_label = q.WrapLabel(keyring.id, wrap["namespace"].encode(), wrap["path"].encode(), wrap["wrap_no"],
                             wrap["wrapped_by"].encode())
    customers = [secret.public() for secret in secrets]
    raw, payload = q.seal(keyring, customers, obj_label, wrap_label, plaintext, fresh, fresh_w)
    header = q.Header.decode(raw)
    partials = {i: q.partial(share, header) for i, share in shares.items()}
    by_id = {secret.public().id: secret for secret in secrets}
    kcs = [(p.cust_key_id, q.answer_part(by_id[p.cust_key_id], p, header.h_obj, header.h_wrap)) for p in header.parts]
    prover = 1 + rng.below(n)
    context = case["dleq_context"] if "dleq_context" in case else rng.bytes(rng.below(40))
    proof = dleq.prove(shares[prover], [(header.kem[:32], partials[prover])], context, rng.bytes(32))
    return hexed({
        "class": "customer" if secrets else "cluster",
        "t": t, "n": n, "y": keyring.y, "keyring_id": keyring.id,
        "shares": [{"index": i, "secret": scalar(share)} for i, share in shares.items()],
        "customers": [{"secret": s.encode(), "public": s.public().encode()} for s in secrets],
        "fresh": fresh, "fresh_w": fresh_w, "obj": obj, "wrap": wrap,
        "plaintext": plaintext, "header": raw, "header_hash": header.hash, "payload": payload,
        "partials": [{"index": i, "point": p} for i, p in partials.items()],
        "ss1": q.combine([(i, partials[i]) for i in range(1, t + 1)]),
        "kcs": [{"cust_key_id": ident, "kc": kc} for ident, kc in kcs],
        "dleq": {"index": prover, "context": context, "proof": proof},
    })


def hexed(value):
    """The same tree with bytes as lower-case hex."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {k: hexed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hexed(v) for v in value]
    return value


def make_vectors(count, seed):
    rng = Rng(seed)
    cases = (SMALL + LARGE)[:count]
    return [make_vector(rng, case) for case in cases] + [
        make_vector(rng, random_case(rng)) for _ in range(count - len(cases))
    ]


def render(vectors):
    """An array with one line per field of a vector."""
    blocks = []
    for vector in vectors:
        lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in vector.items()]
        blocks.append("{\n" + ",\n".join(lines) + "\n}")
    return ("[\n" + ",\n".join(blocks) + "\n]\n").encode()


def main():
    parser = argparse.ArgumentParser(description="Makes test vectors (docs/format.md section 17).")
    parser.add_argument("count", type=int, nargs="?")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.write or args.check:
        wanted = render(make_vectors(len(SMALL), COMMITTED_SEED))
        if args.write:
            COMMITTED.write_bytes(wanted)
        elif not COMMITTED.exists() or COMMITTED.read_bytes() != wanted:
            print(f"{COMMITTED.name} is not what make_vectors.py writes", file=sys.stderr)
            return 1
        return 0
    if args.count is None or args.count < 1:
        parser.error("a count, --write or --check")
    sys.stdout.buffer.write(render(make_vectors(args.count, args.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
