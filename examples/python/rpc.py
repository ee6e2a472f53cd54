"""gRPC calls over TLS 1.3 to a server whose Ed25519 key is pinned.

Why not grpcio: its TLS (tried: 1.85.1) offers no Ed25519 in the handshake, and members and custodians have Ed25519
certificates and nothing else. Python's own `ssl` does. A server is what its key says: no certificate authority is asked, no name is compared. So the
check of the chain is off, the handshake proves that the server holds the key of the certificate it shows (RFC 8446, section
4.4.3: OpenSSL verifies CertificateVerify whatever `verify_mode` is), and nothing is sent before that key is compared with the pin.
"""

import socket
import ssl

import h2.config
import h2.connection
import h2.events
from cryptography import x509
from cryptography.hazmat.primitives import serialization


class CallFailed(Exception):
    """A gRPC status that is not OK, with the stable code of docs/errors.md."""

    def __init__(self, code, message):
        super().__init__(f"{message} [{code}]")
        self.code = code


def connect(address, key, identity, timeout=10):
    """A TLS connection to the server at "host:port" whose Ed25519 key is `key`, as the caller of the PEM file `identity`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin below takes its place
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(identity)
    host, port = address.rsplit(":", 1)
    stream = context.wrap_socket(socket.create_connection((host, int(port)), timeout))
    shown = x509.load_der_x509_certificate(stream.getpeercert(binary_form=True)).public_key()
    raw = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    if stream.version() != "TLSv1.3" or stream.selected_alpn_protocol() != "h2" or shown.public_bytes(*raw) != key:
        stream.close()
        raise ConnectionError(f"the server at {address} is not the one that is pinned")
    return stream


def call(address, key, identity, method, message, enough=lambda replies: False):
    """The messages that `method` answers to `message`; a stream is read to its end, or until `enough` is true of them."""
    with connect(address, key, identity) as stream:
        http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        http.initiate_connection()
        headers = [(":method", "POST"), (":scheme", "http"), (":authority", address), (":path", method),
                   ("content-type", "application/grpc"), ("te", "trailers")]
        http.send_headers(1, headers)
        http.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
        stream.sendall(http.data_to_send())
        received, replies, trailers, ended = b"", [], {}, False
        while not ended and not enough(replies):
            data = stream.recv(65_536)
            if not data:
                raise ConnectionError(f"{address} closed the connection")
            for event in http.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    received += event.data
                    http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                    trailers.update(event.headers)
                elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    raise ConnectionError(f"{address} broke off")
                ended = ended or isinstance(event, h2.events.StreamEnded)
            stream.sendall(http.data_to_send())
            while len(received) >= 5 and len(received) >= 5 + int.from_bytes(received[1:5], "big"):
                end = 5 + int.from_bytes(received[1:5], "big")
                replies.append(received[5:end])
                received = received[end:]
    if ended and trailers.get("grpc-status") != "0":
        raise CallFailed(trailers.get("quorate-code", "unknown"), trailers.get("grpc-message", "no status"))
    return replies


def field(number, value):
    """One field of a protobuf message: bytes."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def fields(message):
    """A protobuf message as {number: [values]}: integers and byte strings."""
    found, at = {}, 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            byte = message[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            value = number()
        elif tag & 7 == 2:
            length = number()
            value = message[at:at + length]
            at += length
        else:
            raise ValueError("no such field in these messages")
        found.setdefault(tag >> 3, []).append(value)
    return found
