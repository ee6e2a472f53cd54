#!/usr/bin/env python3
"""The receiver with faults and lies that tests plant: `POST /planted` on the application's port. For tests, and for nothing else.

    {"fault": "...", "act": "...", "times": n}

`hold-before`, `hold-within`: the act waits before its transaction, or with the database in its hands, until `{"release": true}`.
`hold-login`: of the application's `login`, between a password that was right and its session.
`die-before`, `die-after`: the process kills itself with the act not yet, or already, on disk.
`drop`: the connection is closed after the work, without an answer.   `late`: it is answered after 3 s.
`forge`: signed with another secret.   `unsigned`: not signed at all.   `echo`: the request itself is the answer.
`replay`: the answer before is answered again.   `rename`: the same, as an answer to this request.
`pretend`: it is said to be done, and is not.   `lie`: of a login that is tried the contrary is said.   `tell`: its password.
`short`: of many principals the last is left out.   `swap`: the first is called by another name.
`huge`: 8 MiB are answered.
`deaf`: signatures, `stale`: timestamps, `forgetful`: ids, `astray`: acts, `anyway`: sessions are not looked at.
"""

import json
import os
import pathlib
import signal
import threading
import time

import signatures
from receiver import ApplicationHandler, Receiver, arguments, serve

HELD_SECONDS = 30
LATE_SECONDS = 3


class Planted(Receiver):
    def __init__(self, *args):
        self.faults, self.lock, self.go_on, self.last = [], threading.Lock(), threading.Event(), None
        self.offset, self.here = 0, threading.local()
        super().__init__(*args)

    def plant(self, asked):
        """How many times what was planted has yet to strike."""
        with self.lock:
            self.offset = asked.get("offset", self.offset)
            if "fault" in asked:
                self.go_on.clear()
                self.faults.append([asked["fault"], asked.get("act"), asked.get("times", 1)])
            if "release" in asked:
                self.faults.clear()
                self.go_on.set()
            return {"left": sum(one[2] for one in self.faults)}

    def strikes(self, fault, act):
        """Whether it is this fault's turn; it is one time fewer then."""
        with self.lock:
            for one in self.faults:
                if one[0] == fault and one[1] in (None, act) and one[2] > 0:
                    one[2] -= 1
                    return True
        return False

    def now(self):
        return super().now() + self.offset

    def answer(self, path, headers, body):
        act = path.rsplit("/", 1)[-1]
        if self.strikes("hold-before", act):
            self.go_on.wait(HELD_SECONDS)
        if self.strikes("deaf", act):
            accounts = self.accounts()
            headers = dict(headers.items())
            sign = (headers["webhook-id"], headers["webhook-timestamp"], body)
            headers["webhook-signature"] = signatures.sign(accounts.secret(), *sign)
            accounts.close()
        status, said_headers, said = super().answer(path, headers, body)
        if self.strikes("die-after", act):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.strikes("late", act):
            time.sleep(LATE_SECONDS)
        if self.strikes("drop", act):
            raise ConnectionAbortedError
        before, self.last = self.last, (status, said_headers, said)
        if self.strikes("forge", act):
            _, said_headers, _ = self.signed("whsec_" + "A" * 32, headers["webhook-id"], said)
        if self.strikes("unsigned", act):
            said_headers = {}
        if self.strikes("echo", act):
            wanted = ("webhook-id", "webhook-timestamp", "webhook-signature")
            said_headers, said = {name: headers[name] for name in wanted}, body
        if self.strikes("replay", act) and before:
            status, said_headers, said = before
        if self.strikes("rename", act) and before:
            _, said_headers, said = before
            said_headers = said_headers | {"webhook-id": "ans_" + headers["webhook-id"].removeprefix("req_")}
        if self.strikes("huge", act):
            said = b" " * (8 << 20)
        return status, said_headers, said

    def once(self, accounts, secret, path, headers, body):
        act, headers = path.rsplit("/", 1)[-1], dict(headers.items())
        if self.strikes("stale", act):
            headers["webhook-timestamp"] = str(self.now())
        if self.strikes("forgetful", act):
            accounts.remember = lambda *_: None
        if self.strikes("astray", act):
            path = "/v1/" + json.loads(body)["type"].removeprefix("quorate.v1.")
        if self.strikes("anyway", act):
            accounts.is_open = lambda *_: True
        return super().once(accounts, secret, path, headers, body)

    def accounts(self):
        accounts = super().accounts()
        changing = accounts.changing
        accounts.changing = lambda: self.changing_later(changing)
        return accounts

    def changing_later(self, changing):
        """A login whose password was right waits here."""
        if getattr(self.here, "is_login", False) and self.strikes("hold-login", "login"):
            self.go_on.wait(HELD_SECONDS)
        return changing()

    def login(self, name, password):
        self.here.is_login = True
        return super().login(name, password)

    def perform(self, accounts, act, asked):
        if self.strikes("hold-within", act):
            self.go_on.wait(HELD_SECONDS)
        if self.strikes("pretend", act):
            done = super().perform(accounts, act, asked)
            accounts.db.execute("ROLLBACK TO act")
            return done
        done = super().perform(accounts, act, asked)
        if self.strikes("die-before", act):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.strikes("lie", act):
            done["let_in"] = not done["let_in"]
        if self.strikes("tell", act):
            done = {"let_in": False, "reason": "the password is not " + asked["secret"]}
        if self.strikes("short", act):
            done["principals"].pop()
        if self.strikes("swap", act):
            done["principals"][0]["name"] = "q_another"
        return done


class PlantedHandler(ApplicationHandler):
    def do_POST(self):
        if self.path != "/planted":
            super().do_POST()
            return
        left = self.server.receiver.plant(json.loads(self.body()))
        self.say(200, {}, json.dumps(left).encode())


def main():
    options = arguments().parse_args()
    secret = pathlib.Path(options.secret_file).read_text().strip()
    serve(Planted(options.data, options.group, secret), options, PlantedHandler)


if __name__ == "__main__":
    main()
