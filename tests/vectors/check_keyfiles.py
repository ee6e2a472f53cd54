#!/usr/bin/env python3
"""Checks sealed key files (docs/format.md section 14) from standard input: a JSON array of
{"file": hex, "purpose": text, "secret": hex, and "passphrase": text or "raw_key": hex}.

Each is opened, sealed again with its own salt and nonce and compared, and must be refused with any one byte damaged. Prints
`ok N`, or names the failures on standard error and ends with 1.
"""

import json
import sys

import keyfile
from conventions import Refused


def failures_of(record):
    data, purpose, secret = bytes.fromhex(record["file"]), record["purpose"].encode(), bytes.fromhex(record["secret"])
    sealed_bytes = 32 + 24 + len(secret) + 16
    nonce = data[len(data) - sealed_bytes + 32:][:24]
    if "passphrase" in record:
        protection, unlock = keyfile.PASSPHRASE, record["passphrase"].encode()
        m, t, p = (int.from_bytes(data[at:at + 4], "big") for at in (9, 13, 17))
        again = keyfile.seal_with_passphrase(unlock, purpose, secret, data[21:37], nonce, m, t, p)
    else:
        protection, unlock = keyfile.RAW_KEY, bytes.fromhex(record["raw_key"])
        again = keyfile.seal_with_key(unlock, purpose, secret, nonce)
    if again != data:
        at = next((i for i, (a, b) in enumerate(zip(again, data)) if a != b), min(len(again), len(data)))
        yield f"sealed again, it differs from byte {at} on"
    if keyfile.open_file(data, protection, purpose, unlock) != secret:
        yield "opens to another secret"
    # Each byte of the head costs one more Argon2id at most; costs themselves are left alone, as some would take minutes.
    for at in set(range(len(data))) - (set(range(9, 21)) if protection == keyfile.PASSPHRASE else set()):
        bad = data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
        try:
            keyfile.open_file(bad, protection, purpose, unlock)
        except Refused:
            continue
        yield f"opens with byte {at} damaged"


def main():
    records = json.load(sys.stdin.buffer)
    found = []
    for number, record in enumerate(records):
        try:
            found += [f"key file {number}: {failure}" for failure in failures_of(record)]
        except Refused as refused:
            found.append(f"key file {number}: refused as '{refused}'")
    for failure in found:
        print(failure, file=sys.stderr)
    if found or not records:
        return 1
    print(f"ok {len(records)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
