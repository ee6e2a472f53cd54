"""Standard Webhooks 1.0.0, symmetric: who sent a message, when, and that it is whole.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hmac
import re

PREFIX = "whsec_"
# Neither has a full stop, which separates them from the body in what is signed.
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
TIMESTAMP = re.compile(r"[0-9]{1,12}")


class NotASecret(Exception):
    """What was given is no signing secret."""


def decode(secret):
    """The key of `whsec_` and base64: 24 to 64 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise NotASecret("not base64") from None
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise NotASecret("not whsec_ and the base64 of 24 to 64 bytes")
    return key


def sign(secret, message_id, timestamp, body):
    """The value of `webhook-signature`."""
    mac = hmac.digest(decode(secret), f"{message_id}.{timestamp}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(mac).decode()


def is_signed(secret, headers, body):
    """Whether one of the signatures is this secret's. Says nothing of when it was sent."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not ID.fullmatch(message_id) or not TIMESTAMP.fullmatch(timestamp):
        return False
    wanted = sign(secret, message_id, timestamp, body).encode()
    found = headers.get("webhook-signature", "").encode().split(b" ")
    # All of them, in a time that says nothing of which.
    return sum(hmac.compare_digest(wanted, one) for one in found) > 0
