"""The metadata service of a virtual machine, on a port of this one."""

import email.utils
import http.server
import json
import threading
import time
from typing import Self


class Metadata(http.server.ThreadingHTTPServer):
    """AWS's service, version 2 (a token by PUT, 401 without it, 404 until there is a notice), Azure's and Google's.

    Azure's tells of another machine of the same group too, which is evicted first.

    Attributes:
        end: when the machine is taken away, in seconds since 1970; None as long as there is no notice.
        asked: paths of the requests so far.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.end: float | None = None
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.shutdown()
        self.server_close()


def _eviction(machine: str, end: float) -> dict:
    when = email.utils.formatdate(end, usegmt=True)
    names = {"EventId": machine, "EventType": "Preempt", "ResourceType": "VirtualMachine", "Resources": [machine]}
    return names | {"EventStatus": "Scheduled", "NotBefore": when}


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self):
        wanted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(*((200, "secret") if wanted else (400, "")))

    def do_GET(self):
        self.server.asked.append(self.path)
        end = self.server.end
        if self.path == "/computeMetadata/v1/instance/preempted":
            known = self.headers["Metadata-Flavor"] == "Google"
            self._answer(*((200, "FALSE" if end is None else "TRUE") if known else (403, "")))
        elif self.path.startswith("/metadata/") and self.headers["Metadata"] != "true":
            self._answer(400, "")
        elif self.path == "/metadata/instance/compute/name?api-version=2021-02-01&format=text":
            self._answer(200, "workers_1")
        elif self.path == "/metadata/scheduledevents?api-version=2020-07-01":
            gone = [("workers_0", time.time() - 60)] + ([] if end is None else [("workers_1", end)])
            self._answer(200, json.dumps({"DocumentIncarnation": 1, "Events": [_eviction(*each) for each in gone]}))
        elif self.headers["X-aws-ec2-metadata-token"] != "secret":
            self._answer(401, "")
        elif self.path != "/latest/meta-data/spot/instance-action" or end is None:
            self._answer(404, "")
        else:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
            self._answer(200, json.dumps({"action": "terminate", "time": when}))

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args) -> None:
        pass
