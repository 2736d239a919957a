"""A component for the launcher's tests: a server with a child and a grandchild that are hard to get rid of.

    python -m tests.integration.launch_family PORT [stubborn]

GET /health answers the process ids of all three as JSON. The grandchild leaves the session and ignores SIGTERM; with
`stubborn` so does the server. GET /end ends the server with status 3, leaving the other two.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

GRANDCHILD = "import os, signal; os.setsid(); signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
CHILD = f"""
import subprocess, sys, signal
process = subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
signal.pause()
"""


def main(port: str, *words: str) -> None:
    if "stubborn" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    assert child.stdout is not None
    pids = [os.getpid(), child.pid, int(child.stdout.readline())]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/end":
                print("the family ends", flush=True)
                os._exit(3)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(pids).encode())

        def log_message(self, *_: object) -> None:
            pass

    HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
