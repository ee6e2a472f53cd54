"""Questions that pass through one member, and their sealed answers: docs/wire.md, section 6."""

import os
import time
from dataclasses import dataclass

import hpke
from conventions import H, LP, T, u32, u64
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rpc import field, fields

VERSION = b"\1"
VALID = 15_000  # milliseconds


def borsh(*values):
    """Integers as (value, width), little-endian; byte strings with a u32 length; lists with a u32 count."""
    out = b""
    for value in values:
        if isinstance(value, tuple):
            out += value[0].to_bytes(value[1], "little")
        elif isinstance(value, list):
            out += len(value).to_bytes(4, "little") + b"".join(value)
        else:
            out += len(value).to_bytes(4, "little") + value
    return out


@dataclass
class Question:
    """A signed question, and what only its asker knows of it."""
    cluster: bytes
    id: bytes
    key: hpke.AnswerKey
    message: bytes  # RelayRequest
    hash: bytes


def ask_open(cluster, namespace, path, members, content, caller, principal, chain):
    """The question for the newest version of one secret, to `members`; those of `content` send header and payload."""
    request_id, key = os.urandom(16), hpke.AnswerKey()
    item = borsh(namespace.encode(), path.encode(), (0, 8))
    ask = b"\0" + borsh((0, 8)) + b"\0" + borsh(bytes(content), [item])
    question = (VERSION + cluster + request_id + ask + key.public
                + borsh(bytes(members), (int(time.time() * 1000) + VALID, 8), principal.encode(), [borsh(c) for c in chain]))
    own = caller.public_key().public_bytes_raw()
    signature = caller.sign(T("question", question))
    signed = VERSION + borsh(question) + own + signature
    return Question(cluster, request_id, key, field(1, signed), H("signed-question", question, own, signature))


def read_answer(question, relayed, members):
    """(member, its OpenReply, or a refusal that it signed) of one RelayedAnswer; members: {index: Ed25519 key}."""
    relayed = fields(relayed)
    member, sealed = relayed[1][0], relayed.get(2, [b""])[0]
    if not sealed:
        # Words of the node in between: nobody vouches for them.
        raise ConnectionError(f"member {member}: {relayed.get(4, [b''])[0].decode()}")
    inside = question.key.open(T("relay", question.cluster, question.hash, bytes([member])), sealed)
    length = int.from_bytes(inside[1:5], "little")
    answer, signature = inside[5:5 + length], inside[5 + length:]
    if inside[:1] != VERSION:
        raise ValueError(f"member {member} answered in another version")
    verify(members[member], T("relayed", question.cluster, question.hash, bytes([member]), answer), signature)
    if answer[0] == 2:
        code = answer[5:5 + int.from_bytes(answer[1:5], "little")]
        raise PermissionError(f"member {member} refuses: {code.decode()}")
    reply = fields(answer[5:])
    check_reply(question, member, members[member], reply)
    return member, fields(reply[3][0])


def check_reply(question, member, key, reply):
    """Section 5: the member's signature over everything but content."""
    def of(message, n, empty=b""):
        return message.get(n, [empty])[0]

    body = u32(of(reply, 1, 0)) + u64(of(reply, 2, 0)) + u32(len(reply.get(3, [])))
    for item in map(fields, reply.get(3, [])):
        body += b"".join(LP(of(item, n)) for n in (1, 2, 3, 4)) + u64(of(item, 5, 0)) + bytes([of(item, 6, 0)])
        body += LP(of(item, 7)) + LP(of(item, 8)) + u64(of(item, 9, 0)) + LP(of(item, 10))
    body += u32(len(reply.get(4, [])))
    for proof in map(fields, reply.get(4, [])):
        body += LP(of(proof, 1)) + u64(of(proof, 2, 0)) + LP(of(proof, 3))
    if of(reply, 1, 0) != member or len(reply.get(3, [])) != 1:
        raise ValueError(f"member {member}'s answer is not to the question")
    verify(key, T("open", question.cluster, question.id, body), of(reply, 5))


def verify(key, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        raise ValueError("an answer is not signed by the member that it is said to be of") from None
