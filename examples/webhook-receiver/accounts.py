"""Accounts, their logins and the executor's sessions, in SQLite.

Every act is one transaction, which is on disk before its answer leaves (`synchronous = FULL`). A login is a row, found by the hash of
its token, so that to delete the row is to end it: nothing remembers one in memory.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import sqlite3
import time

# By how much the clocks of the two sides may differ, in seconds; for so long an id is remembered.
TOLERANCE = 300
NAME = re.compile(r"[a-z0-9_]{1,63}")
BASE64 = "([A-Za-z0-9+/=]{24,44})"
VERIFIER = re.compile(rf"SCRAM-SHA-256\$([1-9][0-9]{{0,5}}):{BASE64}\${BASE64}:{BASE64}")
# How many of the executor's sessions a target may have: what is open longest is ended first.
MOST_SESSIONS = 100
BUSY_SECONDS = 2

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY, until INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS seen_until ON seen (until);
-- Numbers never come back: neither of accounts nor of sessions.
CREATE TABLE IF NOT EXISTS accounts (
  number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, is_claim INTEGER NOT NULL, can_login INTEGER NOT NULL,
  verifier TEXT, groups TEXT, connection_limit INTEGER, expires INTEGER, wanted TEXT);
CREATE TABLE IF NOT EXISTS sessions (
  number INTEGER PRIMARY KEY AUTOINCREMENT, instance INTEGER NOT NULL, target TEXT NOT NULL, term INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS logins (
  id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE, number INTEGER NOT NULL, name TEXT NOT NULL);
"""


class Refused(Exception):
    """What the answer says in place of a result."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


class Accounts:
    """The data of one receiver. One instance for each connection to the database; an act runs in the caller's transaction."""

    def __init__(self, path, groups, instance):
        self.groups, self.instance = groups, instance
        self.db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")

    def close(self):
        self.db.close()

    def start(self, secret):
        """Once for each start of the process: whatever an executor sent to an earlier one is dead from here on."""
        self.db.executescript(SCHEMA)
        with self.changing():
            self.db.execute("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", (secret,))
            self.db.execute("DELETE FROM sessions")

    def changing(self):
        """A transaction, which has the database to itself from its beginning."""
        return Transaction(self.db)

    def one(self, sql, *values):
        return self.db.execute(sql, values).fetchone()

    def secret(self):
        return self.one("SELECT value FROM meta WHERE key = 'secret'")[0]

    def remember(self, message_id, now):
        """Takes an id, for as long as its timestamp may be believed."""
        self.db.execute("DELETE FROM seen WHERE until < ?", (now,))
        try:
            # Its timestamp may lie in the future as far as in the past.
            self.db.execute("INSERT INTO seen VALUES (?, ?)", (message_id, now + 2 * TOLERANCE))
        except sqlite3.IntegrityError:
            raise Refused("replayed", "this id was used before") from None

    # The executor's sessions.

    def bind(self, target, term, keep=None):
        if keep is not None and self.is_open(keep):
            return {"session": keep["number"]}
        made = self.db.execute("INSERT INTO sessions VALUES (NULL, ?, ?, ?)", (self.instance, target, term)).lastrowid
        self.db.execute(
            "DELETE FROM sessions WHERE target = ? AND number NOT IN "
            "(SELECT number FROM sessions WHERE target = ? ORDER BY number DESC LIMIT ?)",
            (target, target, MOST_SESSIONS),
        )
        return {"session": made}

    def is_open(self, session):
        sql = "SELECT 1 FROM sessions WHERE number = ? AND instance = ?"
        return self.one(sql, session["number"], session["instance"]) is not None

    def take_over(self, target, term):
        ended = self.db.execute("DELETE FROM sessions WHERE target = ? AND term < ?", (target, term))
        return {"ended": ended.rowcount}

    def end_strangers(self, own):
        known = {(one["instance"], one["number"]) for one in own}
        ended = 0
        for instance, number in self.db.execute("SELECT instance, number FROM sessions").fetchall():
            if (instance, number) not in known:
                ended += self.db.execute("DELETE FROM sessions WHERE number = ?", (number,)).rowcount
        return {"ended": ended}

    def set_password(self, secret, session):
        if not self.is_open(session):
            raise Refused("stale_binding", "the session is not open")
        self.db.execute("UPDATE meta SET value = ? WHERE key = 'secret'", (secret,))
        return {}

    # One account.

    def create(self, idempotency_key, name, verifier, groups, connection_limit, max_ttl_seconds, session):
        if not NAME.fullmatch(name) or not VERIFIER.fullmatch(verifier) or idempotency_key != f"{name}/create":
            raise Refused("invalid", "a name, verifier or idempotency key of another form")
        unknown = [group for group in groups if group not in self.groups]
        if unknown:
            raise Refused("unknown_group", f"there is no group {unknown[0]}")
        wanted = json.dumps([verifier, groups, connection_limit, max_ttl_seconds])
        found = self.one("SELECT number, wanted FROM accounts WHERE name = ?", name)
        # The same order again, whose answer was lost: it has the answer that it had.
        if found and found[1] == wanted:
            return {"number": found[0]}
        if found:
            raise Refused("duplicate", "the name exists")
        # In the transaction that makes the account: whoever ends the session first makes sure that it is not made.
        if not self.is_open(session):
            raise Refused("stale_binding", "the session is not open")
        expires = int(time.time()) + max_ttl_seconds
        made = self.db.execute(
            "INSERT INTO accounts VALUES (NULL, ?, 0, 1, ?, ?, ?, ?, ?)",
            (name, verifier, json.dumps(groups), connection_limit, expires, wanted),
        )
        return {"number": made.lastrowid}

    def fence(self, name, session):
        self.db.execute("DELETE FROM sessions WHERE number = ?", (session["number"],))
        return {"number": self.number_of(name)}

    def number_of(self, name):
        found = self.one("SELECT number FROM accounts WHERE name = ?", name)
        return found and found[0]

    # Many.

    def refuse(self, principals):
        def refused(principal):
            name, number = principal["name"], self.number_of(principal["name"])
            if number is None:
                return {"name": name, "number": None, "outcome": "absent"}
            self.db.execute("UPDATE accounts SET can_login = 0, verifier = NULL, wanted = NULL WHERE number = ?", (number,))
            return {"name": name, "number": number, "outcome": "disabled"}

        return {"principals": [refused(principal) for principal in principals]}

    def numbers(self, principal):
        """Of the name, and the one asked for, unless another has it."""
        numbers = {self.number_of(principal["name"])} - {None}
        if principal["number"] is not None and self.held_by(principal) is None:
            numbers.add(principal["number"])
        return numbers

    def held_by(self, principal):
        found = self.one("SELECT name FROM accounts WHERE number = ?", principal["number"])
        return found[0] if found and found[0] != principal["name"] else None

    def kill(self, principals):
        numbers = set().union(*(self.numbers(principal) for principal in principals))
        end = "DELETE FROM logins WHERE number = ?"
        return {"ended": sum(self.db.execute(end, (number,)).rowcount for number in numbers)}

    def look(self, principals):
        def seen(principal):
            found = self.one("SELECT number, can_login, expires FROM accounts WHERE name = ?", principal["name"])
            count = "SELECT COUNT(*) FROM logins WHERE number = ?"
            return {
                "name": principal["name"],
                "number": found and found[0],
                "can_login": bool(found and found[1] and found[2] > time.time()),
                "sessions": sum(self.one(count, number)[0] for number in self.numbers(principal)),
                "held_by": self.held_by(principal),
                "doubt": None,
            }

        return {"principals": [seen(principal) for principal in principals]}

    def clean(self, principals):
        for principal in principals:
            sql = "DELETE FROM accounts WHERE name = ? AND can_login = 0 AND is_claim = 0"
            self.db.execute(sql, (principal["name"],))

        def cleaned(name):
            gone = self.number_of(name) is None
            reason = None if gone else "it may log in, or is a claim"
            return {"name": name, "outcome": "gone" if gone else "left", "left": [], "reason": reason}

        return {"principals": [cleaned(principal["name"]) for principal in principals]}

    # Searches.

    def page(self, prefix, after, limit):
        found = self.db.execute(
            "SELECT name, number FROM accounts WHERE substr(name, 1, ?) = ? AND name > ? ORDER BY name LIMIT ?",
            (len(prefix), prefix, after or "", limit + 1),
        ).fetchall()
        return found[:limit], len(found) > limit

    def list(self, prefix, after, limit):
        found, more = self.page(prefix, after, limit)
        return {"principals": [{"name": name, "number": number} for name, number in found], "more": more}

    def ghosts(self):
        sql = "SELECT id, number FROM logins WHERE number NOT IN (SELECT number FROM accounts) ORDER BY id"
        return {"sessions": [{"id": one, "number": number} for one, number in self.db.execute(sql)]}

    def claims(self, prefix, after, limit):
        found, more = self.page(prefix, after, limit)
        return {"names": [name for name, _ in found], "more": more}

    def claim(self, name):
        if not NAME.fullmatch(name):
            raise Refused("invalid", "a name of another form")
        if self.number_of(name) is not None:
            raise Refused("duplicate", "the name exists")
        self.db.execute("INSERT INTO accounts (name, is_claim, can_login) VALUES (?, 1, 0)", (name,))
        return {}

    def disclaim(self, names):
        for name in names:
            self.db.execute("DELETE FROM accounts WHERE name = ? AND is_claim = 1", (name,))
        return {"stay": [name for name in names if self.number_of(name) is not None]}

    def check(self, groups):
        unfit = [{"name": group, "reason": "there is no such group"} for group in groups if group not in self.groups]
        return {"release": 1, "timeline": self.instance, "logins": 1_000_000, "unfit": unfit, "missing": []}

    def timeline(self):
        return {"timeline": self.instance}

    def try_out(self, name, secret):
        """In as everybody comes, and out again: the vault asks before anybody relies on it, and after the account has ended."""
        if not NAME.fullmatch(name) or not isinstance(secret, str):
            raise Refused("invalid", "a name of another form, or a password that is no text")
        token = self.let_in(name, self.known(name, secret))
        if token is None:
            return {"let_in": False, "reason": "no such login, not its password, or as many sessions as it may have"}
        is_in = self.whoami(token) == name
        self.logout(token)
        return {"let_in": is_in, "reason": None if is_in else "its session is nobody's"}

    # What the application does for its users.

    def login(self, name, password):
        """A token for a session, or nothing."""
        known = self.known(name, password)
        # That took its time, and nobody waited for it.
        with self.changing():
            return self.let_in(name, known)

    def account(self, name):
        sql = "SELECT number, verifier, connection_limit FROM accounts WHERE name = ? AND can_login = 1 AND expires > ?"
        return self.one(sql, name, int(time.time()))

    def known(self, name, password):
        """The account of a name, if that is its password."""
        found = self.account(name)
        return found if found and is_password_of(password, found[1]) else None

    def let_in(self, name, known):
        """In a transaction. Whoever was refused since the password was looked at is not let in."""
        if not known or self.account(name) != known:
            return None
        if self.one("SELECT COUNT(*) FROM logins WHERE number = ?", known[0])[0] >= known[2]:
            return None
        token = secrets.token_urlsafe(32)
        self.db.execute("INSERT INTO logins VALUES (NULL, ?, ?, ?)", (digest_of(token), known[0], name))
        return token

    def logout(self, token):
        self.db.execute("DELETE FROM logins WHERE token = ?", (digest_of(token),))

    def whoami(self, token):
        sql = (
            "SELECT name FROM logins WHERE token = ? "
            "AND NOT EXISTS (SELECT 1 FROM accounts WHERE number = logins.number AND expires <= ?)"
        )
        found = self.one(sql, digest_of(token), int(time.time()))
        return found and found[0]


class Transaction:
    """`BEGIN IMMEDIATE`, then `COMMIT`, or `ROLLBACK` on an exception."""

    def __init__(self, db):
        self.db = db

    def __enter__(self):
        try:
            self.db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise Refused("busy", str(error)) from None

    def __exit__(self, kind, *_):
        self.db.execute("ROLLBACK" if kind else "COMMIT")


def digest_of(token):
    return hashlib.sha256(token.encode()).hexdigest()


def is_password_of(password, verifier):
    """RFC 5802, section 3: whether StoredKey is that of the password."""
    iterations, salt, stored, _ = VERIFIER.fullmatch(verifier).groups()
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), base64.b64decode(stored))
