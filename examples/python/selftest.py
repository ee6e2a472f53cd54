#!/usr/bin/env python3
"""HPKE against the vector of its RFC, and relayed questions and answers against the file that freezes their bytes."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[1:1] = [str(ROOT / "tests" / "vectors")]

import hpke  # noqa: E402
from conventions import H, T  # noqa: E402
from relay import VERSION, borsh, verify  # noqa: E402


def golden():
    lines = (ROOT / "crates" / "api" / "tests" / "golden" / "relay.txt").read_text().splitlines()
    frozen = {name: bytes.fromhex(digits) for name, digits in (line.split(": ") for line in lines)}
    key = hpke.AnswerKey(hpke.derive_private(frozen["answer-key-seed"]))
    for name in ("open", "read-mounts"):
        signed = frozen[name]
        length = int.from_bytes(signed[1:5], "little")
        question, own, signature = signed[5:5 + length], signed[5 + length:37 + length], signed[37 + length:]
        assert signed[:1] == question[:1] == VERSION and len(signature) == 64, name
        assert key.public in question, f"{name}: the answer key"
        verify(own, T("question", question), signature)
        if name == "open":
            hashed = H("signed-question", question, own, signature)
            assert hashed == frozen["open-hash"], "the hash of the question"
    inside = key.open(T("relay", bytes([1] * 32), hashed, b"\3"), frozen["sealed-answer-of-3"])
    assert inside == VERSION + borsh(frozen["answer"]) + inside[-64:], "what is sealed"
    verify(frozen["member-key"], T("relayed", bytes([1] * 32), hashed, b"\3", frozen["answer"]), inside[-64:])


if __name__ == "__main__":
    hpke.selftest()
    golden()
    print("ok")
