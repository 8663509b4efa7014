"""A server on this machine that speaks as much of the OpenAI protocol as `build-data` uses."""

import json
import re
import threading
import time

from tests.data.prompts_common import WRONG, right
from tests.http_server import LocalServer, QuietHandler


def reply_of(*texts) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": text}} for text in texts]}


def sums(request: dict) -> dict:
    """Right once and otherwise wrong."""
    number = int(re.search(r"what is (\d+)", json.dumps(request["messages"][-1]))[1])
    return reply_of(*([right(number)] + [WRONG] * 20)[: request["n"]])


class ChatServer(LocalServer):
    """
    Answers with `answer(request)`: a dict, raw bytes, a number for an HTTP error, or None to hang up. Keeps requests.
    """

    def __init__(self, answer=sums, delay: float = 0.0):
        self.requests, self.headers, self.most_at_once, self._now = [], [], 0, 0
        lock, outer = threading.Lock(), self

        class Handler(QuietHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(request)
                    outer.headers.append(
                        {"path": self.path, **{name.title(): text for name, text in self.headers.items()}}
                    )
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                time.sleep(delay)
                reply = answer(request)
                with lock:
                    outer._now -= 1
                if reply is None:
                    self.close_connection = True
                    return
                status = reply if isinstance(reply, int) else 200
                key = self.headers.get("Authorization", "")
                error = f"no such model, key {key}".encode()
                body = error if status != 200 else reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send(status, body)

        super().__init__(Handler)
        self.url += "/v1"
