#!/usr/bin/env python3
"""Opens a secret through the one member that this machine reaches: open_secret.py MEMBER PATH

Everything else comes from the environment, as for the command line (docs/cli.md): QUORATE_PROFILE and QUORATE_IDENTITY, and
for mounts of class `customer` QUORATE_CUSTODIAN, QUORATE_CUSTODIAN_KEY and QUORATE_CUSTODIAN_IDENTITY.

The member that is reached carries the question and sealed answers. What is believed is what t members signed alike. A wrong
part is noticed, since the key commitment differs, but not traced to its member: the SDK asks for proofs then.
"""

import os
import pathlib
import sys
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
# The sealed format is the second implementation that checks the page; it is slow, and not constant-time.
sys.path[1:1] = [str(HERE.parents[1] / "tests" / "vectors")]

import quorate_format as sealed  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key  # noqa: E402
from relay import ask_open, read_answer  # noqa: E402
from rpc import call, field, fields  # noqa: E402


def main(via, path, namespace="default"):
    profile = tomllib.loads(pathlib.Path(os.environ["QUORATE_PROFILE"]).read_text())
    cluster, threshold = bytes.fromhex(profile["cluster"]), profile["threshold"]
    members = {m["index"]: bytes.fromhex(m["key"]) for m in profile["members"]}
    through = next(m for m in profile["members"] if m["name"] == via)
    identity = os.environ["QUORATE_IDENTITY"]
    caller, principal, chain = load(identity)

    question = ask_open(cluster, namespace, path, sorted(members), sorted(members), caller, principal, chain)
    agreed = []

    def enough(replies):
        agreed[:] = agree(question, replies, members, threshold)
        return len(agreed) >= threshold

    replies = call(through["api_address"], members[through["index"]], identity, "/quorate.vault.v1.Vault/Relay",
                   question.message, enough)
    if not enough(replies):
        raise ConnectionError(f"fewer than {threshold} members gave the same answer")
    if code := agreed[0][1].get(1):
        raise PermissionError(f"{code[0].decode()}: {agreed[0][1].get(2, [b''])[0].decode()}")
    item = agreed[0][1]
    header, payload = sealed.Header.decode(item[11][0]), item[12][0]
    keyring = check(profile, cluster, namespace, path, item, header)
    kcs = customer_values(question.id, header)
    ss1 = sealed.combine([(member, item[10][0]) for member, item in agreed[:threshold]])
    return sealed.open_sealed(header, payload, keyring, ss1, kcs)


def load(path):
    """Key, SPIFFE id and certificate chain of an identity file."""
    pem = pathlib.Path(path).read_bytes()
    chain = x509.load_pem_x509_certificates(pem)
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    principal = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
    key = pem[pem.index(b"-----BEGIN PRIVATE KEY"):]
    return load_pem_private_key(key, None), principal, [c.public_bytes(Encoding.DER) for c in chain]


def agree(question, replies, members, threshold):
    """The answers of t members that say the same in every field but the reason, the part and the content."""
    said = {}
    for reply in replies:
        try:
            member, item = read_answer(question, reply, members)
        except (ConnectionError, PermissionError) as why:
            print(why, file=sys.stderr)
            continue
        if item.get(1) == [b"behind"]:
            continue
        alike = repr([item.get(n) for n in (1, 3, 4, 5, 6, 7, 8, 9)])
        said.setdefault(alike, {})[member] = item
    return max((list(group.items()) for group in said.values()), key=len, default=[])[:threshold]


def check(profile, cluster, namespace, path, item, header):
    """The labels against the question, the keys against the pins; the keyring."""
    label, wrap = header.obj, header.wrap
    right = (header.hash == item[7][0] and label.cluster == cluster
             and [label.secret_id, label.version_id, wrap.keyring_id] == [item[n][0] for n in (3, 4, 8)]
             and (wrap.namespace, wrap.path) == (namespace.encode(), path.encode()) and item.get(6) == [1])
    if not right:
        raise ValueError("the version is labelled for something else")
    pinned = {k["id"]: k for k in profile["keyrings"]}.get(wrap.keyring_id.hex())
    customers = {k["id"] for k in profile.get("customer_keys", [])}
    if not pinned or any(p.cust_key_id.hex() not in customers for p in header.parts):
        raise ValueError("the version is sealed to keys that are not pinned")
    if (pinned["class"] == "customer") != bool(header.parts):
        raise ValueError("the version is not sealed to what its class takes")
    keyring = sealed.Keyring(bytes.fromhex(pinned["y"]))
    if keyring.id != wrap.keyring_id:
        raise ValueError("cluster.toml: the id is not that of y")
    return keyring


def customer_values(request_id, header):
    """Kc of each part, from the custodian; none for class cluster."""
    if not header.parts:
        return []
    items = b""
    for part in header.parts:
        raw = sealed.u8(part.part_suite) + part.cust_key_id + sealed.LP(part.ct)
        items += field(2, field(1, header.h_obj) + field(2, header.h_wrap) + field(3, raw))
    reply, = call(os.environ["QUORATE_CUSTODIAN"], bytes.fromhex(os.environ["QUORATE_CUSTODIAN_KEY"]),
                  os.environ["QUORATE_CUSTODIAN_IDENTITY"], "/quorate.custodian.v1.Custodian/Derive",
                  field(1, request_id) + items)
    values = [fields(item) for item in fields(reply)[1]]
    for value in values:
        if 2 in value:
            raise PermissionError(f"{value[2][0].decode()}: {value[3][0].decode()}")
    return [value[1][0] for value in values]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: open_secret.py MEMBER PATH")
    try:
        sys.stdout.buffer.write(main(*sys.argv[1:]))
    except Exception as why:  # one line for people; the codes of docs/errors.md stand in it
        sys.exit(f"open_secret.py: {type(why).__name__}: {why}")
