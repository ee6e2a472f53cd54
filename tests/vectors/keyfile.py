"""Sealed key files: docs/format.md section 14.

Protection 1 uses argon2-cffi where it is installed. Without it argon2id.py does, which is right and slow: the default of
64 MiB takes minutes.
"""

import hmac

import argon2id
import xchacha
from conventions import LP, Reader, T, expand256, require, u8, u32
from quorate_format import check_name

PASSPHRASE, RAW_KEY = 1, 2
MAGIC = b"QUORKEY"
VERSION = 1
MAX_SECRET = 1_048_576


def _argon2id(passphrase, salt, m, t, p):
    try:
        from argon2.low_level import Type, hash_secret_raw
    except ImportError:
        return argon2id.argon2id(passphrase, salt, m, t, p, 32)
    return hash_secret_raw(passphrase, salt, t, m, p, 32, Type.ID, 0x13)


def _check_cost(m, t, p):
    require(1 <= t <= 16 and 1 <= p <= 16 and 8 * p <= m <= 1_048_576, "malformed", "Argon2id cost")


def _base_of_passphrase(passphrase, salt, m, t, p):
    require(1 <= len(passphrase) <= 1024, "malformed", "passphrase")
    return _argon2id(passphrase, salt, m, t, p)


def _seal(head, base, nonce, secret):
    require(1 <= len(secret) <= MAX_SECRET, "malformed", "secret")
    both = expand256(base, T("keyfile-key", head), 64)
    return head + both[32:] + nonce + xchacha.xchacha_seal(both[:32], nonce, T("keyfile", head), secret)


def seal_with_passphrase(passphrase, purpose, secret, salt, nonce, m=65_536, t=3, p=1):
    check_name(purpose, 64, "purpose")
    _check_cost(m, t, p)
    head = MAGIC + u8(VERSION) + u8(PASSPHRASE) + u32(m) + u32(t) + u32(p) + salt + LP(purpose)
    return _seal(head, _base_of_passphrase(passphrase, salt, m, t, p), nonce, secret)


def seal_with_key(key, purpose, secret, nonce):
    check_name(purpose, 64, "purpose")
    require(len(key) == 32, "malformed", "key")
    return _seal(MAGIC + u8(VERSION) + u8(RAW_KEY) + LP(purpose), key, nonce, secret)


def open_file(data, protection, purpose, unlock):
    """The secret. `unlock` is the passphrase or the 32-byte key, as `protection` says."""
    reader = Reader(data, "key file")
    require(reader.take(7) == MAGIC, "malformed", "magic")
    version = reader.number(1)
    require(version == VERSION, "unknown version", str(version))
    found = reader.number(1)
    require(found in (PASSPHRASE, RAW_KEY), "malformed", f"protection {found}")
    if found == PASSPHRASE:
        m, t, p = (reader.number(4) for _ in range(3))
        salt = reader.take(16)
        _check_cost(m, t, p)
    found_purpose = reader.lp()
    check_name(found_purpose, 64, "purpose")
    head = data[:reader.at]
    check, nonce = reader.take(32), reader.take(24)
    sealed = data[reader.at:]
    require(17 <= len(sealed) <= MAX_SECRET + 16, "malformed", "secret")
    require(found == protection, "protection")
    require(found_purpose == purpose, "purpose")
    base = _base_of_passphrase(unlock, salt, m, t, p) if found == PASSPHRASE else unlock
    require(len(base) == 32, "malformed", "key")
    both = expand256(base, T("keyfile-key", head), 64)
    require(hmac.compare_digest(both[32:], check), "wrong key")
    secret = xchacha.xchacha_open(both[:32], nonce, T("keyfile", head), sealed)
    require(secret is not None, "damaged")
    return secret
