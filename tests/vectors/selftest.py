#!/usr/bin/env python3
"""Tests of the implementation beside this file: the arithmetic against published vectors, then each rule of docs/format.md
that refuses something, with an input that only this rule refuses."""

import copy
import hashlib
import json
import random
import unittest
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import argon2id
import backup
import check_vectors
import dleq
import keyfile
import make_vectors
import mlkem768
import p256
import quorate_format as q
import ristretto255 as group
import xchacha
from conventions import LP, H, Refused, T, expand256, extract256, scalar, scalar_from, u8, u32, u64

hx = bytes.fromhex

# RFC 9496 appendix A.1: 0 B .. 15 B
RISTRETTO_MULTIPLES = """
0000000000000000000000000000000000000000000000000000000000000000
e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76
6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919
94741f5d5d52755ece4f23f044ee27d5d1ea1e2bd196b462166b16152a9d0259
da80862773358b466ffadfe0b3293ab3d9fd53c5ea6c955358f568322daf6a57
e882b131016b52c1d3337080187cf768423efccbb517bb495ab812c4160ff44e
f64746d3c92b13050ed8d80236a7f0007c3b3f962f5ba793d19a601ebb1df403
44f53520926ec81fbd5a387845beb7df85a96a24ece18738bdcfa6a7822a176d
903293d8f2287ebe10e2374dc1a53e0bc887e592699f02d077d5263cdd55601c
02622ace8f7303a31cafc63f8fc48fdc16e1c8c8d234b2f0d6685282a9076031
20706fd788b2720a1ed2a5dad4952b01f413bcf0e7564de8cdc816689e2db95f
bce83f8ba5dd2fa572864c24ba1810f9522bc6004afe95877ac73241cafdab42
e4549ee16b9aa03099ca208c67adafcafa4c3f3e4e5303de6026e3ca8ff84460
aa52e000df2e16f55fb1032fc33bc42742dad6bd5a8fc0be0167436c5948501f
46376b80f409b29dc2b5f6f0c52591990896e5716f41477cd30085ab7f10301e
e0c418f7c8d9c4cdd7395b93ea124f3ad99021bb681dfc3302a9d99a2e53e64e
""".split()

# RFC 9496 appendix A.2: encodings to refuse
RISTRETTO_INVALID = """
00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
f3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
0100000000000000000000000000000000000000000000000000000000000000
01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
ed57ffd8c914fb201471d1c3d245ce3c746fcbe63a3679d51b6a516ebebe0e20
c34c4e1826e5d403b78e246e88aa051c36ccf0aafebffe137d148a2bf9104562
c940e5a4404157cfb1628b108db051a8d439e1a421394ec4ebccb9ec92a8ac78
47cfc5497c53dc8e61c91d17fd626ffb1c49e2bca94eed052281b510b1117a24
f1c6165d33367351b0da8f6e4511010c68174a03b6581212c71c0e1d026c3c72
87260f7a2f12495118360f02c26a470f450dadf34a413d21042b43b9d93e1309
26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371
4eac077a713c57b4f4397629a4145982c661f48044dd3f96427d40b147d9742f
de6a7b00deadc788eb6b6c8d20c0ae96c2f2019078fa604fee5b87d6e989ad7b
bcab477be20861e01e4a0e295284146a510150d9817763caf1a6f4b422d67042
2a292df7e32cababbd9de088d1d1abec9fc0440f637ed2fba145094dc14bea08
f4a9e534fc0d216c44b218fa0c42d99635a0127ee2e53c712f70609649fdff22
8268436f8c4126196cf64b3c7ddbda90746a378625f9813dd9b8457077256731
2810e5cbc2cc4d4eece54f61c6f69758e289aa7ab440b3cbeaa21995c2f4232b
3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e
a45fdc55c76448c049a1ab33f17023edfb2be3581e9c7aade8a6125215e04220
d483fe813c6ba647ebbfd3ec41adca1c6130c2beeee9d9bf065c8d151c5f396e
8a2e1d30050198c65a54483123960ccc38aef6848e1ec8f5f780e8523769ba32
32888462f8b486c68ad7dd9610be5192bbeaf3b443951ac1a8118419d9fa097b
227142501b9d4355ccba290404bde41575b037693cef1f438c47f8fbf35d1165
5c37cc491da847cfeb9281d407efc41e15144c876e0170b499a96a22ed31e01e
445425117cb8c90edcbc7c1cc0e74f747f2c1efa5630a967c64f287792a48a4b
ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
""".split()

# RFC 9496 appendix A.3: the one-way map of the SHA-512 of these sentences
RISTRETTO_DERIVED = [
    ("Ristretto is traditionally a short shot of espresso coffee",
     "3066f82a1a747d45120d1740f14358531a8f04bbffe6a819f86dfe50f44a0a46"),
    ("made with the normal amount of ground coffee but extracted with",
     "f26e5b6f7d362d2d2a94c5d0e7602cb4773c95a2e5c31a64f133189fa76ed61b"),
    ("about half the amount of water in the same amount of time",
     "006ccd2a9e6867e6a2c5cea83d3302cc9de128dd2a9a57dd8ee7b9d7ffe02826"),
    ("by using a finer grind.",
     "f8f0c87cf237953c5890aec3998169005dae3eca1fbb04548c635953c817f92a"),
    ("This produces a concentrated shot of coffee per volume.",
     "ae81e7dedf20a497e10c304a765c1767a42d6e06029758d2d7e8ef7cc4c41179"),
    ("Just pulling a normal shot short will produce a weaker shot",
     "e2705652ff9f5e44d3e841bf1c251cf7dddb77d140870d1ab2ed64f1a9ce8628"),
    ("and is not a Ristretto as some believe.",
     "80bd07262511cdde4863f8a7434cef696750681cb9510eea557088f76d9e5065"),
]

# RFC 9496 appendix A.3: inputs that differ in ignored or reduced bits, one element
RISTRETTO_DERIVED_SAME = [
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "1200000000000000000000000000000000000000000000000000000000000000",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000080"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000"
    "1200000000000000000000000000000000000000000000000000000000000080",
]


class Ristretto255(unittest.TestCase):
    def test_constants_of_section_4_1(self):
        self.assertEqual(group.D, 37095705934669439343138083508754565189542113879843219016388785533085940283555)
        self.assertEqual(group.SQRT_M1, 19681161376707505956807079304988542015446066515923890162744021073123829784752)
        self.assertEqual(group.SQRT_AD_MINUS_ONE ** 2 % group.P, (-group.D - 1) % group.P)
        self.assertEqual(group.INVSQRT_A_MINUS_D,
                         54469307008909316920995813868745141605393597292927456921205312896311721017578)

    def test_sqrt_ratio_of_appendix_a_4(self):
        root = int.from_bytes(hx("3c5ff1b5d8e4113b871bd052f9e7bcd0582804c266ffb2d4f4203eb07fdb7c54"), "little")
        quarter = int.from_bytes(hx("f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff3f"), "little")
        for u, v, result in [(0, 0, (True, 0)), (0, 1, (True, 0)), (1, 0, (False, 0)), (2, 1, (False, root)),
                             (4, 1, (True, 2)), (1, 4, (True, quarter))]:
            self.assertEqual(group.sqrt_ratio_m1(u, v), result)

    def test_multiples(self):
        total = group.IDENTITY
        for k, encoded in enumerate(RISTRETTO_MULTIPLES):
            self.assertEqual(group.encode(total).hex(), encoded)
            self.assertEqual(group.encode(group.mul(k, group.BASE)).hex(), encoded)
            self.assertTrue(group.equal(group.decode(hx(encoded)), total))
            total = group.add(total, group.BASE)
        self.assertTrue(group.equal(group.mul(group.ORDER, group.BASE), group.IDENTITY))
        self.assertTrue(group.equal(group.mul(group.ORDER - 1, group.BASE), group.neg(group.BASE)))
        self.assertFalse(group.equal(group.BASE, group.double(group.BASE)))

    def test_invalid_encodings(self):
        for encoded in RISTRETTO_INVALID:
            self.assertIsNone(group.decode(hx(encoded)), encoded)

    def test_one_way_map(self):
        for sentence, encoded in RISTRETTO_DERIVED:
            point = group.from_uniform(hashlib.sha512(sentence.encode()).digest())
            self.assertEqual(group.encode(point).hex(), encoded)
        for uniform in RISTRETTO_DERIVED_SAME:
            self.assertEqual(group.encode(group.from_uniform(hx(uniform))).hex(),
                             "304282791023b73128d277bdcb5c7746ef2eac08dde9f2983379cb8e5ef0517f")


class P256(unittest.TestCase):
    def test_base_point_and_its_double(self):
        self.assertTrue(p256.on_curve(*p256.BASE))
        self.assertEqual(p256.mul(2, p256.BASE), (
            0x7CF27B188D034F7E8A52380304B51AC3C08969E277F21B35A60B48FC47669978,
            0x07775510DB8ED040293D9AC69F7430DBBA7DADE63CE982299E04B79D227873D1,
        ))
        self.assertIsNone(p256.mul(p256.ORDER, p256.BASE))
        self.assertEqual(p256.mul(p256.ORDER - 1, p256.BASE), (p256.BASE[0], p256.P - p256.BASE[1]))

    def test_diffie_hellman_of_rfc_5903_section_8_1(self):
        i = 0xC88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433
        r = 0xC6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53
        self.assertEqual(p256.mul(i, p256.BASE)[0], 0xDAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180)
        self.assertEqual(p256.mul(i, p256.mul(r, p256.BASE))[0],
                         0xD6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE)

    def test_decoder_takes_one_form_only(self):
        good = p256.encode(p256.BASE)
        self.assertEqual(p256.decode(good), p256.BASE)
        x, y = p256.BASE
        off = good[:-1] + bytes([good[-1] ^ 1])
        compressed = bytes([2 + (y & 1)]) + good[1:33]
        hybrid = bytes([6 + (y & 1)]) + good[1:]
        # the point with the least x, whose x + p still fits 32 bytes
        small = next((x, y) for x in range(100) for y in [pow(x**3 - 3 * x + p256.B, (p256.P + 1) // 4, p256.P)]
                     if p256.on_curve(x, y))
        too_big = b"\x04" + (small[0] + p256.P).to_bytes(32, "big") + small[1].to_bytes(32, "big")
        self.assertEqual(p256.decode(p256.encode(small)), small)
        for bad in (off, compressed, hybrid, too_big, b"\0", bytes(65), good[1:], good + b"\0", b""):
            self.assertIsNone(p256.decode(bad))


class MlKem768(unittest.TestCase):
    def test_accumulated_over_100_keys(self):
        """The accumulated test of Go's crypto/mlkem: a SHAKE128 stream gives d || z, m and a random ciphertext."""
        stream = hashlib.shake_128(b"").digest(100 * (64 + 32 + 1088))
        seen = hashlib.shake_128()
        for i in range(100):
            chunk = stream[1184 * i:1184 * (i + 1)]
            ek, dk = mlkem768.keygen(chunk[:64])
            shared, ct = mlkem768.encaps(ek, chunk[64:96])
            self.assertEqual(mlkem768.decaps(dk, ct), shared)
            seen.update(ek + ct + shared + mlkem768.decaps(dk, chunk[96:]))
        self.assertEqual(seen.hexdigest(32), "1114b1b6699ed191734fa339376afa7e285c9e6acf6ff0177d346696ce564415")

    def test_modulus_check(self):
        ek, _ = mlkem768.keygen(bytes(64))
        self.assertTrue(mlkem768.valid_ek(ek))
        for value in (3329, 4095):
            self.assertFalse(mlkem768.valid_ek(bytes([value & 255, value >> 8 | ek[1] & 0xF0]) + ek[2:]))
        self.assertTrue(mlkem768.valid_ek(bytes([3328 & 255, 3328 >> 8 | ek[1] & 0xF0]) + ek[2:]))
        self.assertFalse(mlkem768.valid_ek(ek + b"\0"))


class Aead(unittest.TestCase):
    SUNSCREEN = (b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
                 b"sunscreen would be it.")
    AAD = hx("50515253c0c1c2c3c4c5c6c7")

    def test_chacha20_block_of_rfc_8439_section_2_3_2(self):
        block = xchacha.chacha20_keystream(bytes(range(32)), 1, hx("000000090000004a00000000"), 1)
        self.assertEqual(block.hex(),
                         "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
                         "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e")

    def test_keystream_is_the_same_in_pieces(self):
        key, nonce = bytes(range(32)), bytes(range(12))
        whole = xchacha.chacha20_keystream(key, 3, nonce, 1100)
        pieces = b"".join(xchacha.chacha20_keystream(key, 3 + i, nonce, 1) for i in range(1100))
        self.assertEqual(whole, pieces)

    def test_poly1305_of_rfc_8439_section_2_5_2(self):
        key = hx("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
        self.assertEqual(xchacha.poly1305(key, b"Cryptographic Forum Research Group").hex(),
                         "a8061dc1305136c6c22b8baf0c0127a9")

    def test_chacha20_poly1305_of_rfc_8439_section_2_8_2(self):
        key, nonce = bytes(range(0x80, 0xA0)), hx("070000004041424344454647")
        sealed = xchacha.chacha_seal(key, nonce, self.AAD, self.SUNSCREEN)
        self.assertEqual(sealed[:32].hex(), "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6")
        self.assertEqual(sealed[-16:].hex(), "1ae10b594f09e26a7e902ecbd0600691")
        self.assertEqual(xchacha.chacha_open(key, nonce, self.AAD, sealed), self.SUNSCREEN)
        for at in range(len(sealed)):
            bad = bytearray(sealed)
            bad[at] ^= 1
            self.assertIsNone(xchacha.chacha_open(key, nonce, self.AAD, bytes(bad)))
        self.assertIsNone(xchacha.chacha_open(key, nonce, b"", sealed))
        self.assertIsNone(xchacha.chacha_open(key, nonce, b"", b"short"))

    def test_hchacha20_of_the_draft_section_2_2_1(self):
        self.assertEqual(xchacha.hchacha20(bytes(range(32)), hx("000000090000004a0000000031415927")).hex(),
                         "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc")

    def test_xchacha20_poly1305_of_the_draft_appendix_a_3_1(self):
        key, nonce = bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58))
        sealed = xchacha.xchacha_seal(key, nonce, self.AAD, self.SUNSCREEN)
        self.assertEqual(sealed[:32].hex(), "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb")
        self.assertEqual(sealed[-16:].hex(), "c0875924c1c7987947deafd8780acf49")
        self.assertEqual(xchacha.xchacha_open(key, nonce, self.AAD, sealed), self.SUNSCREEN)


class Derivation(unittest.TestCase):
    def test_hkdf_of_rfc_5869_appendix_a_1_and_a_3(self):
        prk = extract256(bytes(range(13)), b"\x0b" * 22)
        self.assertEqual(prk.hex(), "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
        self.assertEqual(expand256(prk, bytes(range(0xF0, 0xFA)), 42).hex(),
                         "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")
        prk = extract256(b"", b"\x0b" * 22)
        self.assertEqual(prk.hex(), "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04")
        self.assertEqual(expand256(prk, b"", 42).hex(),
                         "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8")

    def test_argon2id_of_rfc_9106_section_5_3(self):
        tag = argon2id.argon2id(b"\1" * 32, b"\2" * 16, 32, 3, 4, 32, b"\3" * 8, b"\4" * 12)
        self.assertEqual(tag.hex(), "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659")

    def test_expand_message_xmd_of_rfc_9380_appendix_k_3(self):
        dst = b"QUUX-V01-CS02-with-expander-SHA512-256"
        for message, length, wanted in [
            (b"", 32, "6b9a7312411d92f921c6f68ca0b6380730a1a4d982c507211a90964c394179ba"),
            (b"abc", 32, "0da749f12fbe5483eb066a5f595055679b976e93abe9be6f0f6318bce7aca8dc"),
            (b"abcdef0123456789", 32, "087e45a86e2939ee8b91100af1583c4938e0f5fc6c9db4b107b83346bc967f58"),
            (b"", 128, "41b037d1734a5f8df225dd8c7de38f851efdb45c372887be655212d07251b921"
                       "b052b62eaed99b46f72f2ef4cc96bfaf254ebbbec091e1a3b9e4fb5e5b619d2e"
                       "0c5414800a1d882b62bb5cd1778f098b8eb6cb399d5d9d18f5d5842cf5d13d7e"
                       "b00a7cff859b605da678b318bd0e65ebff70bec88c753b159a805d2c89c55961"),
        ]:
            self.assertEqual(dleq.expand_message_xmd(message, dst, length).hex(), wanted)


class Dleq(unittest.TestCase):
    def test_rfc_9497_appendix_a_1_2(self):
        """VOPRF(ristretto255, SHA-512), vectors 1 and 3: the proofs, under that protocol's context string."""
        context = b"OPRFV1-\x01-ristretto255-SHA512"
        key = scalar_from(hx("e6f73f344b79b379f1a0dd37e07ff62e38d9f71345ce62ae3a9bc60b04ccd909"))
        public = hx("c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e")
        first = (hx("863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945"),
                 hx("aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e"))
        second = (hx("90a0145ea9da29254c3a56be4fe185465ebb3bf2a1801f7124bbbadac751e654"),
                  hx("cc5ac221950a49ceaa73c8db41b82c20372a4c8d63e5dded2db920b7eee36a2a"))
        for pairs, rho, proof in [
            ([first], "222a5e897cf59db8145db8d16e597e8facb80ae7d4e26d9881aa6f61d645fc0e",
             "ddef93772692e535d1a53903db24367355cc2cc78de93b3be5a8ffcc6985dd06"
             "6d4346421d17bf5117a2a1ff0fcb2a759f58a539dfbe857a40bce4cf49ec600d"),
            ([first, second], "419c4f4f5052c53c45f3da494d2b67b220d02118e0857cdbcf037f9ea84bbe0c",
             "cc203910175d786927eeb44ea847328047892ddf8590e723c37205cb74600b0a"
             "5ab5337c8eb4ceae0494c2cf89529dcf94572ed267473d567aeed6ab873dee08"),
        ]:
            made = dleq.prove_with(key, pairs, context, lambda seed, m: scalar_from(hx(rho)))
            self.assertEqual(made.hex(), proof)
            self.assertTrue(dleq.holds_with(public, pairs, made, context))
            self.assertFalse(dleq.holds_with(public, pairs[::-1] + [first], made, context))

    def test_round_trip_and_refusals(self):
        k = 12345
        points = [group.encode(group.mul(i, group.BASE)) for i in (7, 8, 9)]
        pairs = [(p, group.encode(group.mul(k, group.decode(p)))) for p in points]
        y = group.encode(group.mul(k, group.BASE))
        proof = dleq.prove(k, pairs, b"context", bytes(32))
        self.assertTrue(dleq.holds(y, pairs, proof, b"context"))
        self.assertFalse(dleq.holds(y, pairs, proof, b"contexT"))
        self.assertFalse(dleq.holds(points[0], pairs, proof, b"context"))
        self.assertFalse(dleq.holds(y, pairs[:2], proof, b"context"))
        self.assertFalse(dleq.holds(y, [(a, b) for (a, _), (_, b) in zip(pairs, pairs[1:] + pairs)], proof, b"context"))
        for bad in (proof[:63], proof + b"\0", proof[:32] + scalar(group.ORDER)):
            with self.assertRaises(Refused):
                dleq.holds(y, pairs, bad, b"context")
        for bad_pairs in ([], pairs * 86, [(bytes(32), pairs[0][1])], [(pairs[0][0], bytes(32))]):
            with self.assertRaises(Refused):
                dleq.holds(y, bad_pairs, proof, b"context")


def sample(**other):
    """(vector with its bytes decoded, Header) of one small customer version with two parts."""
    case = {"t": 2, "n": 3, "size": 20, "suites": [q.CLASSIC, q.CLASSIC], **other}
    v = check_vectors.Vector(make_vectors.make_vector(make_vectors.Rng("selftest"), case))
    return v, q.Header.decode(v.header)


def join(header, **other):
    """The bytes of a header with some fields replaced."""
    slots = u8(1) + header.parts_raw + header.kc + header.wdek
    fields = {"h_obj": header.h_obj, "h_wrap": header.h_wrap, "payload_hash": header.payload_hash,
              "dek_commitment": header.dek_commitment, "kem": header.kem, "slots": slots,
              "commitments": header.commitments, "f": scalar(header.f), **other}
    return b"".join(map(LP, fields.values()))


class Format(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.v, cls.header = sample()

    def refused(self, reason, action, *args, **kwargs):
        with self.assertRaises(Refused) as caught:
            action(*args, **kwargs)
        self.assertEqual(caught.exception.reason, reason)

    def test_padded_len(self):
        for n, wanted in [(1, 64), (56, 64), (57, 128), (120, 128), (121, 256), (32_760, 32_768), (32_761, 65_536),
                          (65_528, 65_536), (65_529, 131_072), (131_064, 131_072), (131_065, 196_608),
                          (1_048_568, 1_048_576), (1_048_569, 1_114_112), (1_048_576, 1_114_112)]:
            self.assertEqual(q.padded_len(n), wanted)
        reachable = {q.padded_len(n) for n in range(1, q.MAX_PLAINTEXT + 1, 7)} | {q.padded_len(q.MAX_PLAINTEXT)}
        self.assertEqual(q.PADDED_LENGTHS, reachable)

    def test_paths(self):
        for good in (b"a", b"a/b", "ü/路".encode(), b"...", b"a b", "a\u0080b".encode(), b"p" * 512):
            q.check_path(good, 512, "path")
        for bad in (b"", b"/a", b"a/", b"a//b", b".", b"a/../b", b"a/.", b"a\x1fb", b"a\x7f", b"\0", b"\xff",
                    b"\xc0\xaf", b"\xed\xa0\x80", b"p" * 513):
            self.refused("malformed", q.check_path, bad, 512, "path")

    def test_labels(self):
        obj, wrap = self.v.obj, self.v.wrap
        for field, value in [("writer_id", b""), ("writer_id", b"w" * 257), ("writer_id", b"a b"), ("writer_id", b"\x7f"),
                             ("padded_len", 0), ("padded_len", 32), ("padded_len", 65), ("padded_len", 65_536 * 18)]:
            self.refused("malformed", replace(obj, **{field: value}).encode)
        for field, value in [("namespace", b"n" * 129), ("namespace", b""), ("path", b"p/"), ("wrapped_by", b""),
                             ("wrapped_by", b"x" * 257)]:
            self.refused("malformed", replace(wrap, **{field: value}).encode)
        for label, data in ((q.ObjLabel, obj.encode()), (q.WrapLabel, wrap.encode())):
            self.assertEqual(label.decode(data).encode(), data)
            self.refused("malformed", label.decode, data + b"\0")
            self.refused("malformed", label.decode, data[:-1])
            for suite in (0, 2):
                self.refused("unknown suite", label.decode, u8(suite) + data[1:])

    def test_customer_keys(self):
        secret = self.v.secrets[0].encode()
        for bad in (secret[:-1], secret + b"\0", b"\x02" + bytes(32), b"\x02" + p256.ORDER.to_bytes(32, "big")):
            self.refused("malformed", q.CustomerSecret.decode, bad)
        self.refused("unknown suite", q.CustomerSecret.decode, b"\x03" + secret[1:])
        public = q.CustomerSecret(q.HYBRID, 5, bytes(64)).public().encode()
        self.assertEqual(len(public), 1250)
        for bad in (public[:-1], public + b"\0", b"\x02" + public[1:], b"\x01\x05" + public[2:],
                    public[:66] + b"\xff" * 384 + public[450:]):
            self.refused("malformed", q.CustomerPublic.decode, bad)

    def test_slots(self):
        h = self.header
        first = u8(q.CLASSIC) + h.parts[0].cust_key_id + LP(h.parts[0].ct)
        second = u8(q.CLASSIC) + h.parts[1].cust_key_id + LP(h.parts[1].ct)
        tail = h.kc + h.wdek
        self.assertEqual(h.parts_raw, b"\x02" + first + second)
        bad_point = u8(q.CLASSIC) + h.parts[0].cust_key_id + LP(h.parts[0].ct[:-1] + b"\0")
        many = b"".join(u8(q.CLASSIC) + bytes([i]) * 32 + LP(h.parts[0].ct) for i in range(9))
        for slots in (b"\0" + b"\x02" + first + second + tail, b"\x02" + b"\x02" + first + second + tail,
                      b"\x01\x02" + second + first + tail, b"\x01\x02" + first + first + tail,
                      b"\x01\x01" + bad_point + tail, b"\x01\x01" + first + tail + b"\0", b"\x01\x01" + first + tail[1:],
                      b"\x01\x01" + b"\x01" + first[1:] + tail, b"\x01\x09" + many + tail):
            self.refused("malformed", q.Header.decode, join(h, slots=slots))
        q.Header.decode(join(h, slots=b"\x01\x08" + many[:-102] + tail))
        for suite in (0, 3):
            self.refused("unknown suite", q.Header.decode, join(h, slots=b"\x01\x01" + u8(suite) + first[1:] + tail))

    def test_header_fields(self):
        h = self.header
        self.assertEqual(join(h), self.v.header)
        good, zero, odd = h.kem[:32], bytes(32), scalar(1)
        for other in ({"kem": zero + good}, {"kem": good + zero}, {"kem": odd + good}, {"kem": good},
                      {"commitments": zero + good}, {"commitments": good + zero}, {"commitments": good + odd},
                      {"payload_hash": bytes(63)}, {"dek_commitment": bytes(33)}, {"f": scalar(group.ORDER)}, {"f": b""}):
            self.refused("malformed", q.Header.decode, join(h, **other))
        for at in range(5):
            self.refused("malformed", q.Header.decode, self.v.header[:at])
        self.refused("unknown suite", q.Header.decode, b"\0\0\0\0\x02")

    def test_proof_binds_the_second_base(self):
        """R and Rbar of different r: the first equation holds, the second does not."""
        v, h = self.v, self.header
        r, w = 77, 88
        rbar = group.encode(group.mul(r + 1, v.keyring.gbar))
        kem = group.encode(group.mul(r, group.BASE)) + rbar
        commitments = group.encode(group.mul(w, group.BASE)) + group.encode(group.mul(w, v.keyring.gbar))
        forged = q.Header.decode(join(h, kem=kem, commitments=commitments))
        f = (w + r * forged.challenge()) % group.ORDER
        forged = q.Header.decode(join(h, kem=kem, commitments=commitments, f=scalar(f)))
        rp, _, a, _ = forged.equation_points()
        self.assertTrue(group.equal(group.mul(f, group.BASE), group.add(a, group.mul(forged.challenge(), rp))))
        self.assertFalse(forged.proof_holds(v.keyring))
        self.assertFalse(q.batch_holds([(h, v.keyring), (forged, v.keyring)]))
        self.assertTrue(q.batch_holds([(h, v.keyring), (h, v.keyring)]))

    def test_acceptance_compares_part_suites(self):
        v = self.v
        named = [q.CustomerPublic(q.CLASSIC, x.pk) for x in v.publics]
        q.accept(v.header, v.payload, v.keyring, "customer", named[::-1])
        self.refused("customer keys", q.accept, v.header, v.payload, v.keyring, "customer", named[:1])
        self.refused("customer keys", q.accept, v.header, v.payload, v.keyring, "customer", named + named[:1])

        class SameIdOtherSuite(q.CustomerPublic):
            id = named[0].id

        self.refused("customer keys", q.accept, v.header, v.payload, v.keyring, "customer",
                     [SameIdOtherSuite(q.HYBRID, named[0].pk), named[1]])

    def test_refusals_of_opening_in_order(self):
        """What a dishonest writer or wrapper can do past the proof: steps 4 to 7 of section 12."""
        v, h = self.v, self.header
        kcs = [kc for _, kc in v.kcs]
        dek = q.open_dek(h, v.payload, v.keyring, v.ss1, kcs)
        kek, _ = q.kek_and_kc(v.ss1, q.combine_kcs(kcs), h.h_obj, h.h_wrap, v.keyring.y, h.parts_raw, h.kem)
        opened = lambda raw, payload=v.payload: q.open_sealed(q.Header.decode(raw), payload, v.keyring, v.ss1, kcs)
        self.assertEqual(opened(v.header), v.plaintext)
        slots = lambda wdek: u8(1) + h.parts_raw + h.kc + wdek
        self.refused("wdek", opened, join(h, slots=slots(bytes(48))))
        other = xchacha.chacha_seal(kek, bytes(12), q.wdek_aad(h.h_obj, h.h_wrap), bytes(32))
        self.refused("dek commitment", opened, join(h, slots=slots(other)))
        with_payload = lambda payload: opened(join(h, payload_hash=q.payload_hash(payload)), payload)
        self.refused("payload tag", with_payload, v.payload[:-1] + bytes([v.payload[-1] ^ 1]))
        key, aad = expand256(dek, T("pay"), 32), H("pay-aad", h.h_obj)
        sealed = lambda padded: bytes(24) + xchacha.xchacha_seal(key, bytes(24), aad, padded)
        self.assertEqual(with_payload(sealed((u64(56) + b"x" * 56))), b"x" * 56)
        self.refused("true length", with_payload, sealed(bytes(64)))
        self.refused("true length", with_payload, sealed(u64(57) + bytes(56)))
        self.refused("true length", with_payload, sealed(u64(2**64 - 1) + bytes(56)))
        self.refused("padding", with_payload, sealed(u64(1) + bytes(55) + b"\x01"))
        self.refused("padding", with_payload, sealed(u64(1) + b"\0\x01" + bytes(54)))

    def test_combining(self):
        v = self.v
        self.assertEqual(q.combine(v.partials), v.ss1)  # all three, though two are enough
        p = v.partials[0][1]
        minus = group.encode(group.neg(group.decode(p)))
        for bad in ([(0, p)], [(1, p), (1, p)], [(256, p)], [(1, bytes(32))], [(1, b"\x01" + bytes(31))], []):
            self.refused("malformed", q.combine, bad)
        # lambda of {1, 2} is 2 and -1: 2 P - 2 P
        self.refused("malformed", q.combine, [(1, p), (2, group.encode(group.double(group.decode(p))))])
        self.assertNotEqual(q.combine([(1, p), (2, minus)]), bytes(32))

    def test_rewrap_to_another_keyring(self):
        v, h = self.v, self.header
        dek = q.open_dek(h, v.payload, v.keyring, v.ss1, [kc for _, kc in v.kcs])
        new = q.Keyring(group.encode(group.mul(4711, group.BASE)))
        label = replace(v.wrap, keyring_id=new.id, path=b"moved", wrap_no=v.wrap.wrap_no + 1)
        raw = q.rewrap(h, dek, new, [], label, b"f" * 64, b"w" * 32)
        moved = q.accept(raw, v.payload, new, "cluster", [])
        self.assertEqual((moved.h_obj, moved.payload_hash), (h.h_obj, h.payload_hash))
        self.assertEqual(q.open_sealed(moved, v.payload, new, q.partial(4711, moved), []), v.plaintext)
        self.refused("keyring", q.open_sealed, moved, v.payload, v.keyring, q.partial(4711, moved), [])

    def test_threshold_of_one(self):
        """A polynomial of degree 0 opens with one partial, so the checker must refuse such a vector by its t."""
        record = make_vectors.make_vector(make_vectors.Rng("two"), {"t": 2, "n": 2, "size": 1})
        self.assertEqual(check_vectors.check_vector(record, random.Random(1))[0], [])
        self.assertIn("t, n: out of bounds", check_vectors.check_vector({**record, "t": 1}, random.Random(1))[0])
        self.refused("malformed", q.combine, self.v.partials[:1])


class Checker(unittest.TestCase):
    """check_vectors.py must name a failure for every single leaf of a vector that is damaged."""

    def test_every_damaged_field_is_found(self):
        record = json.loads(make_vectors.COMMITTED.read_bytes())[6]
        self.assertEqual(check_vectors.check_vector(record, random.Random(1))[0], [])
        for path in leaves(record):
            failures, _ = check_vectors.check_vector(damaged(record, path), random.Random(1))
            self.assertTrue(failures, path)

    def test_committed_vectors_are_reproducible(self):
        wanted = make_vectors.render(make_vectors.make_vectors(len(make_vectors.SMALL), make_vectors.COMMITTED_SEED))
        self.assertEqual(make_vectors.COMMITTED.read_bytes(), wanted)


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, path + (key,))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from leaves(inner, path + (at,))
    else:
        yield path


def damaged(record, path):
    record = copy.deepcopy(record)
    node = record
    for key in path[:-1]:
        node = node[key]
    value = node[path[-1]]
    if isinstance(value, int):
        node[path[-1]] = value + 1
    elif path[-1] == "class":
        node[path[-1]] = "cluster" if value == "customer" else "customer"
    elif path[-1] in ("namespace", "path", "writer_id", "wrapped_by"):
        node[path[-1]] = value[:-1] + ("y" if value[-1] != "y" else "z")
    else:
        middle = len(value) // 4 * 2
        node[path[-1]] = value[:middle] + f"{int(value[middle:middle + 2] or '0', 16) ^ 1:02x}" + value[middle + 2:]
    return record


class KeyFiles(unittest.TestCase):
    PURPOSE, SECRET = b"node-share", b"s" * 97

    def refused(self, reason, *args):
        with self.assertRaises(Refused) as caught:
            keyfile.open_file(*args)
        self.assertEqual(caught.exception.reason, reason)

    def test_both_protections(self):
        key, phrase = bytes(range(32)), "pässphrase".encode()
        raw = keyfile.seal_with_key(key, self.PURPOSE, self.SECRET, b"n" * 24)
        passed = keyfile.seal_with_passphrase(phrase, self.PURPOSE, self.SECRET, b"s" * 16, b"n" * 24, m=16, t=2, p=2)
        self.assertEqual(len(raw), 9 + 4 + 10 + 32 + 24 + 97 + 16)
        self.assertEqual(len(passed), len(raw) + 28)
        for data, protection, unlock in ((raw, keyfile.RAW_KEY, key), (passed, keyfile.PASSPHRASE, phrase)):
            self.assertEqual(keyfile.open_file(data, protection, self.PURPOSE, unlock), self.SECRET)
            self.refused("protection", data, 3 - protection, self.PURPOSE, unlock)
            self.refused("purpose", data, protection, b"other", unlock)
            self.refused("wrong key", data, protection, self.PURPOSE, unlock[:-1] + b"?")
            self.refused("damaged", data[:-1] + bytes([data[-1] ^ 1]), protection, self.PURPOSE, unlock)
            self.refused("unknown version", data[:7] + b"\x02" + data[8:], protection, self.PURPOSE, unlock)
            self.refused("malformed", data[:8] + b"\x03" + data[9:], protection, self.PURPOSE, unlock)
            self.refused("malformed", b"q" + data[1:], protection, self.PURPOSE, unlock)
        for m, t, p in ((15, 1, 2), (1_048_577, 1, 1), (64, 0, 1), (64, 17, 1), (1024, 1, 17), (64, 1, 0)):
            bad = passed[:9] + u32(m) + u32(t) + u32(p) + passed[21:]
            self.refused("malformed", bad, keyfile.PASSPHRASE, self.PURPOSE, phrase)


class Backups(unittest.TestCase):
    """The golden files of the Rust side, opened by what was written from sections 18 and 19."""

    CRATES = Path(__file__).parent.parent.parent / "crates"

    def test_golden_shares(self):
        lines = (self.CRATES / "crypto/tests/golden/backup.txt").read_text().splitlines()
        secret, *shares = (hx(line.split(": ")[1]) for line in lines)
        for some in (*combinations(shares, 2), shares):
            self.assertEqual(backup.restore(some), secret)
        for reason, some in (("too few", shares[:1]), ("twice", [shares[0]] * 2)):
            with self.assertRaises(Refused) as caught:
                backup.restore(some)
            self.assertEqual(caught.exception.reason, reason)
        for at in range(len(shares[0])):
            damaged = shares[0][:at] + bytes([shares[0][at] ^ 1]) + shares[0][at + 1:]
            with self.assertRaises(Refused):
                backup.restore([damaged, shares[1]])

    def test_golden_wrapped_kem(self):
        cust_key_id, seed, file = map(hx, (self.CRATES / "fragment/tests/golden/kem.txt").read_text().split())
        counted = bytes(range(1, 73))
        iv, key, nonce = counted[:16], counted[16:48], counted[48:]
        # What stands for a token in the test on the other side.
        encrypted = bytes(k ^ iv[at % 16] ^ 0x5A for at, k in enumerate(key))
        self.assertEqual(backup.wrapped_kem(cust_key_id, iv, encrypted, key, nonce, seed), file)


if __name__ == "__main__":
    unittest.main()
