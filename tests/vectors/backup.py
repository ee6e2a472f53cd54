"""Shares of a backup and the wrapped ML-KEM key (docs/format.md sections 18 and 19)."""

import keyfile
from conventions import H32, Reader, T, expand256, extract256, require, u8
from ristretto255 import ORDER as L


def decode_share(data):
    """(cust_key_id, set, k, m, i, share, sealed)."""
    reader = Reader(data, "share")
    require(reader.take(7) == b"QUORSHR", "malformed", "magic")
    require(reader.number(1) == 1, "unknown version")
    require(H32("backup-share", data[:-32]) == data[-32:], "damaged")
    cust_key_id, backup = reader.take(32), reader.take(16)
    k, m, i = (reader.number(1) for _ in range(3))
    share = int.from_bytes(reader.take(32), "little")
    sealed = reader.lp()
    reader.take(32)
    reader.end()
    require(2 <= k <= m and 1 <= i <= m and share < L and len(sealed) <= 4096, "damaged", "bounds")
    return cust_key_id, backup, k, m, i, share, sealed


def restore(files):
    """The secret encoding of section 3."""
    shares = [decode_share(file) for file in files]
    cust_key_id, backup, k, _, _, _, sealed = shares[0]
    require(all((s[0], s[1], s[2], s[6]) == (cust_key_id, backup, k, sealed) for s in shares), "mixed")
    require(len({s[4] for s in shares}) == len(shares), "twice")
    require(len(shares) >= k, "too few")
    s = 0
    for i, share in ((x[4], x[5]) for x in shares):
        for j in (x[4] for x in shares if x[4] != i):
            share = share * j * pow(j - i, -1, L) % L
        s = (s + share) % L
    key = expand256(extract256(T("backup"), s.to_bytes(32, "little")), T("backup-key", cust_key_id, backup), 32)
    return keyfile.open_file(sealed, keyfile.RAW_KEY, b"customer-backup", key)


def wrapped_kem(cust_key_id, iv, encrypted, key, nonce, seed):
    """The file, for a token that gives `encrypted` for `key`."""
    sealed = keyfile.seal_with_key(key, b"customer-kem", seed, nonce)
    return b"QUORKEM" + u8(1) + cust_key_id + iv + encrypted + sealed
