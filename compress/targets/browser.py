"""What a page says in a browser without a window."""

import functools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ("--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-dev-shm-usage")
# beside which it goes on as a user's does; answers as page.js has it or with what it throws
SCRIPT = """await import("./page.js");
const answer = await (async () => ({value: await (%s)}))().catch((error) => ({error: String(error)}));
await fetch("answer", {method: "POST", body: JSON.stringify(answer)});
"""


class NoBrowser(Exception):
    """Why no browser answered."""


def evaluate(folder: Path, expression: str, seconds: float = 600) -> Any:
    """{"value": of a JavaScript expression in the page of a folder} or {"error": what it threw}. Raises NoBrowser."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise NoBrowser(f"none of {', '.join(NAMES)} is installed")
    page = (folder / "index.html").read_text("utf-8") + '<script type="module" src="asked.js"></script>'
    made = {"/asked.html": ("text/html", page), "/asked.js": ("text/javascript", SCRIPT % expression)}
    answers: queue.Queue[bytes] = queue.Queue()

    class Server(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in made:
                return super().do_GET()
            kind, text = made[self.path]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            answers.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(folder))) as server,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        lone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # which root cannot have
        url = f"http://127.0.0.1:{server.server_port}/asked.html"
        command = [program, *OPTIONS, *lone, f"--user-data-dir={profile}", url]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                return json.loads(answers.get(timeout=seconds))
            except queue.Empty:
                raise NoBrowser(f"{program} did not answer within {seconds:.0f} s") from None
            finally:
                browser.terminate()
                server.shutdown()
