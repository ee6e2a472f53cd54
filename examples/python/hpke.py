"""HPKE (RFC 9180), base mode, one message: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305. Opening only."""

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEM = b"KEM" + (0x20).to_bytes(2, "big")
SUITE = b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (0x20, 1, 3))


def extract(salt, ikm):
    return hmac.digest(salt or bytes(32), ikm, hashlib.sha256)


def expand(prk, info, length):
    out = block = b""
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256)
        out += block
    return out[:length]


def labeled_extract(suite, salt, label, ikm):
    return extract(salt, b"HPKE-v1" + suite + label + ikm)


def labeled_expand(suite, prk, label, info, length):
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def derive_private(ikm):
    """DeriveKeyPair, section 7.1.3."""
    prk = labeled_extract(KEM, b"", b"dkp_prk", ikm)
    return X25519PrivateKey.from_private_bytes(labeled_expand(KEM, prk, b"sk", b"", 32))


class AnswerKey:
    """An X25519 key pair for the answers to one question."""

    def __init__(self, private=None):
        self.private = private or X25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()

    def open(self, info, sealed, aad=b""):
        enc, ciphertext = sealed[:32], sealed[32:]
        dh = self.private.exchange(X25519PublicKey.from_public_bytes(enc))
        prk = labeled_extract(KEM, b"", b"eae_prk", dh)
        shared = labeled_expand(KEM, prk, b"shared_secret", enc + self.public, 32)
        context = b"\0" + labeled_extract(SUITE, b"", b"psk_id_hash", b"") + labeled_extract(SUITE, b"", b"info_hash", info)
        secret = labeled_extract(SUITE, shared, b"secret", b"")
        key = labeled_expand(SUITE, secret, b"key", context, 32)
        nonce = labeled_expand(SUITE, secret, b"base_nonce", context, 12)
        return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, aad)


def selftest():
    """RFC 9180, appendix A.2.1."""
    h = bytes.fromhex
    key = AnswerKey(derive_private(h("1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df")))
    assert key.public == h("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a")
    sealed = h("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
               "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28")
    plaintext = key.open(h("4f6465206f6e2061204772656369616e2055726e"), sealed, h("436f756e742d30"))
    assert plaintext == b"Beauty is truth, truth beauty", plaintext
