"""A server of V1 whose numbers are text: each row of `instances` comes back letter by letter, and bodies are kept.

GET /bodies gives what was posted. A locked file of a model's name in $OUTRIGGER_GATES holds its predictions up.
"""

import fcntl
import http.server
import json
import os
import pathlib
import sys

GATES = pathlib.Path(os.environ.get("OUTRIGGER_GATES", "/nonexistent"))
BODIES = []


def rows(text):
    """The elements of the array behind `instances`, as they stand in the text."""
    start = text.index("[", text.index('"instances"')) + 1
    found, depth, begin, quoted, escaped = [], 0, start, False, False
    for index in range(start, len(text)):
        letter = text[index]
        if quoted:
            quoted, escaped = letter != '"' or escaped, letter == "\\" and not escaped
        elif letter == '"':
            quoted = True
        elif letter in "[{":
            depth += 1
        elif letter in "]}" and depth:
            depth -= 1
        elif letter in ",]" and not depth:
            found.append(text[begin:index].strip())
            begin = index + 1
            if letter == "]":
                return [each for each in found if each]
    raise ValueError("no end of instances")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        try:
            with open(GATES / self.path.rsplit("/", 1)[1].split(":")[0]) as gate:
                fcntl.flock(gate, fcntl.LOCK_SH)
        except FileNotFoundError:
            pass
        BODIES.append(body)
        self.answer('{ "predictions" : [ %s ] }' % " , ".join(rows(body)))

    def do_GET(self):
        self.answer(json.dumps(BODIES))

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
