"""An HTTP/1.1 server by hand: it tells byte for byte what reached it, and answers as crudely as the path asks for."""

import asyncio
import base64
import hashlib
import json
import sys


def told(head, body):
    return json.dumps(
        {"head": base64.b64encode(head).decode(), "length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    ).encode()


def plain(body, *fields, status="200 OK", length=True):
    lines = [f"HTTP/1.1 {status}", *fields]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def body_of(reader, head):
    fields = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        if ":" in line:
            name, value = line.split(":", 1)
            fields[name.lower()] = value.strip()
    if "chunked" in fields.get("transfer-encoding", ""):
        parts = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            parts.append(await reader.readexactly(size))
            await reader.readline()
        while (await reader.readline()) != b"\r\n":
            pass
        return b"".join(parts)
    return await reader.readexactly(int(fields.get("content-length", 0)))


GATES = {}


async def serve(reader, writer):
    try:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            method, target, _ = head.split(b" ", 2)
            path = target.decode().split("?")[0]
            if b"100-continue" in head.lower() and path == "/refuse":
                # Refused on the head alone, as 100-continue is for.
                writer.write(plain(b"no", status="413 Payload Too Large"))
                await writer.drain()
                return
            if b"100-continue" in head.lower():
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if path == "/early":
                writer.write(plain(b"enough", "Connection: close", status="403 Forbidden"))
                await writer.drain()
                return
            body = await body_of(reader, head)
            if method == b"HEAD":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nX-Kind: head\r\n\r\n")
            elif path == "/chunked":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
                for part in (b"one", b"two", b"x" * 70000):
                    writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                writer.write(b"0\r\nX-Sum: 70006\r\n\r\n")
            elif path == "/until-close":
                writer.write(plain(b"u" * 100000, "Connection: close", length=False))
                await writer.drain()
                return
            elif path == "/cut":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
                await writer.drain()
                return
            elif path == "/hang-up":
                return
            elif path == "/rubbish":
                writer.write(b"no http at all\r\n\r\n")
                await writer.drain()
                return
            elif path == "/no-content":
                writer.write(b"HTTP/1.1 204 No Content\r\nX-Kind: empty\r\n\r\n")
            elif path == "/not-modified":
                writer.write(b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\n\r\n')
            elif path == "/hints":
                writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
                writer.write(plain(b"hinted"))
            elif path == "/close":
                writer.write(plain(b"the last", "Connection: close"))
                await writer.drain()
                return
            elif path == "/idle-close":
                # Keep-alive as far as the answer says, but the connection is gone right after it.
                writer.write(plain(b"kept?"))
                await writer.drain()
                return
            elif path == "/fields":
                writer.write(plain(
                    b"", "X-Twice: 1", "X-Twice: 2", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2", "X-Empty:",
                    "Server: peer/1", "Date: Thu, 01 Jan 2026 00:00:00 GMT", "Connection: x-hop", "X-Hop: 1",
                    "Keep-Alive: timeout=5", "X-Latin: caf\u00e9".encode("latin-1").decode("latin-1"),
                ))  # fmt: skip
            elif path.startswith("/status/"):
                writer.write(plain(b"odd", status=f"{path[8:]} Some Words"))
            elif path.startswith("/large/"):
                size = int(path[7:])
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
                while size:
                    part = min(size, 65536)
                    writer.write(b"l" * part)
                    await writer.drain()
                    size -= part
            elif path.startswith("/events/"):
                gate = GATES.setdefault(path, asyncio.Event())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                writer.write(b"d\r\ndata: first\n\n\r\n")
                await writer.drain()
                await gate.wait()
                writer.write(b"e\r\ndata: second\n\n\r\n0\r\n\r\n")
            elif path.startswith("/open/"):
                GATES.setdefault("/events/" + path[6:], asyncio.Event()).set()
                writer.write(plain(b""))
            else:
                writer.write(plain(told(head, body), "Content-Type: application/json"))
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0, limit=2**20)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
