"""A process that speaks as much of vLLM's API as its supervision asks for, for tests that jam it.

`python model_process_double.py PORT JAM`: while the file JAM is there completions wait. What it holds says what else is
to be seen of it: `busy` is a vLLM that gives its tokens to others meanwhile, `mute` one without metrics.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    jam: Path

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        while self.jam.exists():
            time.sleep(0.05)
        said = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
        self.reply(200, json.dumps(said))

    def do_GET(self) -> None:
        how = self.jam.read_text() if self.jam.exists() else ""
        if how == "mute":
            return self.reply(404, "")
        given = time.monotonic() if how == "busy" else 1.0
        return self.reply(200, f'# TYPE ...\nvllm:generation_tokens_total{{engine="0",model_name="base"}} {given}\n')

    def reply(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *parts: object) -> None:
        pass


if __name__ == "__main__":
    Handler.jam = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
