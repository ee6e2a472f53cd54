"""Runs a program on a terminal of its own, and answers what it asks.

Standard input is {"program": [..], "answers": [{"wait": text, "hidden": bool, "type": text}, ..]} in JSON. Each answer is typed once
its text has been shown and, if it is to be hidden, the terminal has ceased to show what is typed. Printed is what the terminal has shown, how the
program ended, and whether the terminal shows again what is typed."""

import fcntl
import json
import os
import select
import subprocess
import sys
import termios
import time

LIMIT = 60


def main():
    ask = json.load(sys.stdin)
    master, terminal = os.openpty()
    end = time.monotonic() + LIMIT
    program = subprocess.Popen(
        ask["program"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    shown, looked = b"", 0

    def echoes():
        return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)

    def read(wait):
        ready, _, _ = select.select([master], [], [], wait)
        return os.read(master, 65536) if ready else b""

    for answer in ask["answers"]:
        wanted = answer["wait"].encode()
        while wanted not in shown[looked:] or (answer["hidden"] and echoes()):
            over = time.monotonic() > end or program.poll() is not None
            some = read(0.02)
            if over and not some:
                sys.exit(f"{wanted!r} was not asked for: {shown.decode(errors='replace')}")
            shown += some
        looked = shown.index(wanted, looked) + len(wanted)
        os.write(master, answer["type"].encode())
    while program.poll() is None:
        if time.monotonic() > end:
            program.kill()
            sys.exit(f"it did not end: {shown.decode(errors='replace')}")
        shown += read(0.02)
    while some := read(0):
        shown += some
    print(json.dumps({"shown": shown.decode(), "status": program.returncode, "echoes": echoes()}))


main()
