"""A server of several lives: `python supervised_server.py PORT FOLDER WAY...`, a way for each life.

The last way goes on for all further lives. Each life adds a line to FOLDER/lives. `well` makes FOLDER/settled after its
third answer; the others answer twice, so that whoever watches has seen them ready, and then:

    exits   ends
    hangs   answers no more
    sick    answers 500
    stops   is stopped (SIGSTOP)
    engine  answers on, but a process behind it is stopped

except for `dies`, which ends before it listens, and `silent`, which never listens.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

ANSWERS = 2
STOPS = "import os; os.kill(os.getpid(), 19)"


def main(port: int, folder: Path, ways: list[str]) -> None:
    with (folder / "lives").open("a") as file:
        file.write("life\n")
    life = len((folder / "lives").read_text().splitlines())
    way, asked = ways[min(life, len(ways)) - 1], 0
    if way == "dies":
        sys.exit(3)
    if way == "silent":
        signal.pause()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal asked
            asked += 1
            if asked > ANSWERS:
                if way == "exits":
                    sys.exit(3)
                if way == "hangs":
                    signal.pause()
                if way == "stops":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if way == "engine" and asked == ANSWERS + 1:
                    subprocess.Popen([sys.executable, "-IS", "-c", STOPS])
                if way == "well":
                    (folder / "settled").touch()
            self.send_response(500 if way == "sick" and asked > ANSWERS else 200)
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: object) -> None:  # of a client that has left; SystemExit passes
            pass

    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
