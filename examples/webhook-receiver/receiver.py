#!/usr/bin/env python3
"""A system whose logins the vault makes and ends: the contract of docs/webhook.md, with nothing but Python's own library.

Two ports. The vault's is TLS and takes signed requests. The application's is where its users log in: `POST /login` with a name and a
password gives a token, `GET /whoami` with the token says whose it is. It is plain HTTP, for a proxy in front of it.
"""

import argparse
import http.server
import json
import os
import pathlib
import secrets
import socketserver
import sqlite3
import ssl
import sys
import threading
import time

import signatures
from accounts import TOLERANCE, Accounts, Refused

ACTS = {
    "bind", "take-over", "create", "fence", "refuse", "kill", "look", "clean", "list", "ghosts",
    "check", "timeline", "claims", "claim", "disclaim", "set-password", "end-strangers", "try-out",
}  # fmt: skip
# What the vault says of itself in every request, and these acts want to know.
OF_A_TERM = {"bind": ("target", "term"), "take-over": ("target", "term")}
MOST_BYTES = 1 << 20
PATIENCE_SECONDS = 30


class Receiver:
    """Answers what the vault asks."""

    def __init__(self, path, groups, secret):
        self.path, self.groups = path, groups
        # The secret is in the database.
        os.umask(0o077)
        # Another one with each start: the vault looks for what it does not know of when it changes.
        self.instance = secrets.randbelow(1 << 31)
        accounts = self.accounts()
        accounts.start(secret)
        accounts.close()

    def accounts(self):
        return Accounts(self.path, self.groups, self.instance)

    def now(self):
        return int(time.time())

    def answer(self, path, headers, body):
        """Status, headers and body of what is answered."""
        accounts = self.accounts()
        try:
            secret = accounts.secret()
            if not signatures.is_signed(secret, headers, body):
                return unsigned(401, "signature", "none of the signatures is of the secret that is known here")
            try:
                said = {"data": self.once(accounts, secret, path, headers, body)}
            except Refused as error:
                said = {"error": {"code": error.code, "message": error.message}}
            act = path.rsplit("/", 1)[-1]
            said = {"type": f"quorate.v1.{act}.answer", "instance": self.instance, **said}
            return self.signed(secret, headers["webhook-id"], json.dumps(said).encode())
        except ChangedSecret:
            return unsigned(401, "signature", "the secret has just been replaced")
        finally:
            accounts.close()

    def signed(self, secret, message_id, body):
        """An answer is to one request: its id is that of the request, under another prefix."""
        message_id, timestamp = "ans_" + message_id.removeprefix("req_"), str(self.now())
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": signatures.sign(secret, message_id, timestamp, body),
        }
        return 200, headers, body

    def once(self, accounts, secret, path, headers, body):
        """The act, if it is asked for now, and for the first time. It is on disk when this returns."""
        if abs(self.now() - int(headers["webhook-timestamp"])) > TOLERANCE:
            raise Refused("timestamp", f"more than {TOLERANCE} s from the time here, {self.now()}: set the clocks")
        try:
            request = json.loads(body)
            act = request["type"].removeprefix("quorate.v1.")
            arguments = {key: request[key] for key in OF_A_TERM.get(act, ())} | request["data"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Refused("invalid", "the body is of another form") from None
        # The path is not signed; the body is.
        if act not in ACTS or path.rsplit("/", 2)[-2:] != ["v1", act]:
            raise Refused("invalid", "the body is of another act, or of another version")
        with accounts.changing():
            # Nothing takes effect for a secret that was replaced while this waited.
            if accounts.secret() != secret:
                raise ChangedSecret
            accounts.remember(headers["webhook-id"], self.now())
            accounts.db.execute("SAVEPOINT act")
            try:
                done = self.perform(accounts, act, arguments)
            except (Refused, ValueError, KeyError, TypeError) as error:
                accounts.db.execute("ROLLBACK TO act")
                done = error if isinstance(error, Refused) else Refused("invalid", "an argument is of another form")
        if isinstance(done, Refused):
            raise done
        return done

    def perform(self, accounts, act, arguments):
        if act == "set-password":
            signatures.decode(arguments["secret"])
        return getattr(accounts, act.replace("-", "_"))(**arguments)

    def login(self, name, password):
        accounts = self.accounts()
        try:
            return accounts.login(name, password)
        finally:
            accounts.close()

    def whoami(self, token):
        accounts = self.accounts()
        try:
            return accounts.whoami(token)
        finally:
            accounts.close()


class ChangedSecret(Exception):
    """The secret that a request is signed with was replaced meanwhile."""


def unsigned(status, code, message):
    """What cannot be signed, for there is no secret in common. The vault takes nothing from it but the words."""
    return status, {}, json.dumps({"error": {"code": code, "message": message}}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """HTTP/1.1, one thread for each connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = PATIENCE_SECONDS

    def log_message(self, *_):
        """No request in a log: bodies have verifiers, and some a password."""

    def body(self):
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MOST_BYTES:
            self.close_connection = True
            return None
        return self.rfile.read(int(length))

    def say(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class VaultHandler(Handler):
    def do_POST(self):
        body = self.body()
        if body is None:
            self.say(*unsigned(413, "size", f"more than {MOST_BYTES} bytes, or a body of no length"))
            return
        try:
            self.say(*self.server.receiver.answer(self.path, self.headers, body))
        except ConnectionError:
            self.close_connection = True
        except sqlite3.Error as error:
            # Perhaps before it took effect, perhaps after: nobody here can say.
            self.say(*unsigned(500, "unknown", str(error)))


class ApplicationHandler(Handler):
    def do_POST(self):
        try:
            asked = json.loads(self.body() or b"")
            token = self.server.receiver.login(asked["name"], asked["password"]) if self.path == "/login" else None
        except (ValueError, KeyError, TypeError, Refused):
            token = None
        self.say(200 if token else 403, {}, json.dumps({"token": token} if token else {}).encode())

    def do_GET(self):
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        name = self.server.receiver.whoami(token) if self.path == "/whoami" else None
        self.say(200 if name else 401, {}, json.dumps({"name": name} if name else {}).encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, handler, receiver, tls=None):
        super().__init__(address, handler)
        self.receiver, self.tls = receiver, tls

    def finish_request(self, request, client_address):
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        # Here and not where connections are taken: nobody else waits for a handshake.
        request.settimeout(PATIENCE_SECONDS)
        with self.tls.wrap_socket(request, server_side=True) as encrypted:
            super().finish_request(encrypted, client_address)

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        # Who hangs up, or does not trust us, is no error of ours.
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the SQLite database; made when it is not there")
    parser.add_argument("--secret-file", required=True, help="whsec_...; counts when the database is made, later its own does")
    parser.add_argument("--certificate", required=True, help="PEM, with its chain")
    parser.add_argument("--key", required=True, help="PEM")
    parser.add_argument("--group", action="append", default=[], help="a group that a login may be in; repeated")
    parser.add_argument("--listen", default="127.0.0.1", help="the address of both ports")
    parser.add_argument("--port", type=int, default=8443, help="for the vault, with TLS")
    parser.add_argument("--app-port", type=int, default=8080, help="for users")
    return parser


def serve(receiver, options, application=ApplicationHandler):
    """Until the process ends; says on its standard output on which ports."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(options.certificate, options.key)
    vault = Server((options.listen, options.port), VaultHandler, receiver, tls)
    users = Server((options.listen, options.app_port), application, receiver)
    threading.Thread(target=users.serve_forever, daemon=True).start()
    print(json.dumps({"port": vault.server_address[1], "app_port": users.server_address[1]}), flush=True)
    vault.serve_forever()


def main():
    options = arguments().parse_args()
    secret = pathlib.Path(options.secret_file).read_text().strip()
    signatures.decode(secret)
    serve(Receiver(options.data, options.group, secret), options)


if __name__ == "__main__":
    main()
