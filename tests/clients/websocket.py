"""Messages to a WebSocket echo and back through a proxy.

Arguments: the proxy's host, its port, NAME:PASSWORD, and how: "connect" for a tunnel in which the protocol is switched,
"upgrade" for a request in absolute-form that the proxy passes on. Prints the echo's port and how many bytes came back.
"""
import asyncio
import base64
import os
import socket
import sys

import websockets
from websockets.uri import parse_uri

try:
    from websockets.client import ClientProtocol
except ImportError:  # before 11
    from websockets.client import ClientConnection as ClientProtocol

HOST, PORT, CREDENTIALS, HOW = sys.argv[1:]
AUTHORIZATION = "Basic " + base64.b64encode(CREDENTIALS.encode()).decode()
MESSAGES = ["a", "\u00fc" * 1000] + [os.urandom(length) for length in (0, 1, 125, 126, 65536, 500000)]


async def echo(connection, *_):
    async for message in connection:
        await connection.send(message)


def talk(port):
    stream = socket.create_connection((HOST, int(PORT)), timeout=20)
    protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/chat"), max_size=None)
    request = protocol.connect()
    if HOW == "connect":
        head = f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nProxy-Authorization: {AUTHORIZATION}\r\n\r\n"
        stream.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += stream.recv(1)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
    else:
        request.path = f"http://127.0.0.1:{port}{request.path}"
        request.headers["Proxy-Authorization"] = AUTHORIZATION
    protocol.send_request(request)
    back, events = 0, []

    def next_event():
        for data in protocol.data_to_send():
            stream.sendall(data) if data else stream.shutdown(socket.SHUT_WR)
        while not events:
            data = stream.recv(1 << 16)
            protocol.receive_data(data) if data else protocol.receive_eof()
            events.extend(protocol.events_received())
            if not data:
                return None
        return events.pop(0)

    response = next_event()
    assert response.status_code == 101, response
    for message in MESSAGES:
        binary = isinstance(message, bytes)
        payload = message if binary else message.encode()
        (protocol.send_binary if binary else protocol.send_text)(payload)
        received = b""
        while True:
            frame = next_event()
            received += frame.data
            if frame.fin:
                break
        assert received == payload, (len(received), len(payload))
        back += len(payload)
    protocol.send_close(1000)
    assert next_event().opcode == 8
    return back


async def main():
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        back = await asyncio.get_running_loop().run_in_executor(None, talk, port)
    print(port, back)


asyncio.run(main())
