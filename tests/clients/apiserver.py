"""A stand-in for a Kubernetes API server: one pod, in which every command is cat and every port an echo.

Arguments: certificate, key (neither: in the clear). Prints its port. What runs in the pod goes by SPDY/3.1, which the
client asks for by Upgrade (https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/; streams and their
headers as in client-go, tools/remotecommand and tools/portforward).
"""
import json
import ssl
import struct
import sys
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def text(value):
    return struct.pack(">I", len(value)) + value


# What both sides compress headers with, of which zlib checks that it is the same.
DICTIONARY = b"".join(text(word.replace("_", " ").encode()) for word in WORDS.split()) + TAIL.encode()
SYN_STREAM, SYN_REPLY, PING, GOAWAY, FIN = 1, 2, 6, 7, 1


class Session:
    """One connection after its 101."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.inflate = zlib.decompressobj(zdict=DICTIONARY)
        self.deflate = zlib.compressobj(zdict=DICTIONARY)
        # By number: the kind of a stream and its request, and by those the number.
        self.kinds, self.numbers = {}, {}

    def control(self, kind, body, flags=0):
        self.writer.write(struct.pack(">HHI", 0x8003, kind, flags << 24 | len(body)) + body)

    def data(self, number, body, flags=0):
        self.writer.write(struct.pack(">II", number, flags << 24 | len(body)) + body)

    def run(self):
        while len(head := self.reader.read(8)) == 8:
            first, second = struct.unpack(">II", head)
            flags, body = second >> 24, self.reader.read(second & 0xFFFFFF)
            if not first & 0x80000000:
                self.received(first, body, flags & FIN)
            elif first & 0xFFFF == SYN_STREAM:
                self.opened(body)
            elif first & 0xFFFF == PING:
                self.control(PING, body)
            elif first & 0xFFFF == GOAWAY:
                return

    def opened(self, body):
        (number,) = struct.unpack(">I", body[:4])
        block = self.inflate.decompress(body[10:])
        (count,), at, fields = struct.unpack(">I", block[:4]), 4, []
        for _ in range(2 * count):
            (length,) = struct.unpack(">I", block[at : at + 4])
            fields.append(block[at + 4 : at + 4 + length].decode())
            at += 4 + length
        headers = dict(zip(fields[::2], fields[1::2]))
        kind = (headers["streamtype"], headers.get("requestid"))
        self.kinds[number], self.numbers[kind] = kind, number
        block = self.deflate.compress(struct.pack(">I", 0)) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        self.control(SYN_REPLY, struct.pack(">I", number) + block)

    def received(self, number, body, end):
        kind, request = self.kinds[number]
        # What a command reads it writes, and what comes to a port goes back.
        back = {"stdin": "stdout", "data": "data"}.get(kind)
        if back is None:
            return
        self.data(self.numbers[back, request], body, FIN if end else 0)
        if end and kind == "stdin":
            self.data(self.numbers["stderr", None], b"", FIN)
            self.data(self.numbers["error", None], json.dumps({"metadata": {}, "status": "Success"}).encode(), FIN)
        elif end:
            self.data(self.numbers["error", request], b"", FIN)


def resource(name, kind, verbs):
    return {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": verbs}


DOCUMENTS = {
    "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            resource("pods", "Pod", ["get", "list"]),
            resource("pods/exec", "PodExecOptions", ["create", "get"]),
            resource("pods/portforward", "PodPortForwardOptions", ["create", "get"]),
        ],
    },
    "/api/v1/namespaces/default/pods/mover": {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "mover", "namespace": "default"},
        "spec": {"containers": [{"name": "rsync", "image": "rsync"}]},
        "status": {"phase": "Running"},
    },
}


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        document = DOCUMENTS.get(self.path.partition("?")[0])
        body = json.dumps(document or {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}).encode()
        self.send_response(200 if document else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        if self.headers.get("Upgrade") != "SPDY/3.1":
            return self.send_error(400, "Upgrade request required")
        self.send_response(101)
        self.send_header("Connection", "Upgrade")
        self.send_header("Upgrade", "SPDY/3.1")
        # The first line of several is the client's choice.
        if offered := self.headers.get_all("X-Stream-Protocol-Version"):
            self.send_header("X-Stream-Protocol-Version", offered[0].partition(",")[0])
        self.end_headers()
        Session(self.rfile, self.wfile).run()
        self.close_connection = True

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
if len(sys.argv) > 1:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
