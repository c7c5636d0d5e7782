"""The published server, and a proxy before it that counts every record which it has taken."""

import base64
import collections
import http.client
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "0123456789012345678901234567890123456789"
HERE = os.path.dirname(__file__)


class Server:
    """Ends when this process does: its standard input is closed then."""

    def __init__(self):
        command = [sys.executable, os.path.join(HERE, "server.py"), KEY]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.child = subprocess.Popen(command, **pipes, text=True)
        if not select.select([self.child.stdout], [], [], 120)[0]:
            raise TimeoutError("the server does not start")
        self.port = int(self.child.stdout.readline())

    def post(self, path, body, content_type="application/json"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        credentials = base64.b64encode(f"api:{KEY}".encode()).decode()
        headers = {"Authorization": f"Basic {credentials}", "Content-Type": content_type}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def ask(self, path, **question):
        status, answer = self.post(path, json.dumps(question))
        assert status == 200, (path, question, answer)
        return answer

    def halves(self, project):
        """The starts and ends that the server returns when it is asked for a project's calls."""
        found = set()
        for line in self.ask("/calls/stream_query", project_id=project).splitlines():
            call = json.loads(line)
            found.add(("start", call["id"]))
            if call["ended_at"]:
                found.add(("end", call["id"]))
        return found

    def digest(self, content):
        """A file's digest, which belongs to its content: told by another project."""
        form = f'--x\r\nContent-Disposition: form-data; name="project_id"\r\n\r\nteam/elsewhere\r\n'
        form += '--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        body = form.encode() + content + b"\r\n--x--\r\n"
        status, answer = self.post("/file/create", body, "multipart/form-data; boundary=x")
        assert status == 200, answer
        return json.loads(answer)["digest"]

    def has_file(self, project, digest, content):
        question = json.dumps({"project_id": project, "digest": digest})
        return self.post("/file/content", question) == (200, content)


def records(path, body, answer):
    """The records in a request that the server has taken."""
    route = re.sub(r"^/v2/[^/]+/[^/]+", "/v2", path)
    if route == "/file/create":
        return [("file", json.loads(answer)["digest"])]
    if route in ("/call/start", "/v2/call/start"):
        return [("start", json.loads(body)["start"]["id"])]
    if route in ("/call/end", "/v2/call/end"):
        return [("end", json.loads(body)["end"]["id"])]
    if route == "/v2/calls/complete":
        ids = [call["id"] for call in json.loads(body)["batch"]]
        return [(half, id) for id in ids for half in ("start", "end")]
    if route == "/call/upsert_batch":
        batch = json.loads(body)["batch"]
        return [(item["mode"], item["req"][item["mode"]]["id"]) for item in batch]
    return []


class Proxy:
    """Can be taken away, and comes back at the same port."""

    def __init__(self, server):
        self.taken = collections.Counter()
        self.last_request = time.monotonic()
        self.lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.pass_on("GET")

            def do_POST(self):
                self.pass_on("POST")

            def pass_on(self, method):
                proxy.last_request = time.monotonic()
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
                connection.request(method, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                if answer.status // 100 == 2:
                    with proxy.lock:
                        proxy.taken.update(records(self.path, body, content))
                self.send_response(answer.status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                proxy.last_request = time.monotonic()

            log_message = lambda self, *args: None

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            # A client that was killed has broken its connection.
            handle_error = lambda self, *args: None

        self.bind = lambda port: Listener(("127.0.0.1", port), Handler)
        self.listen(0)

    def listen(self, port):
        self.http = self.bind(port)
        self.port = self.http.server_port
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def go_away(self):
        self.http.shutdown()
        self.http.server_close()

    def come_back(self):
        self.listen(self.port)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def settle(self, quiet=4, most=90):
        """Until nothing was sent for some seconds: everybody looks into his log each second."""
        begun = time.monotonic()
        while time.monotonic() - max(self.last_request, begun) <= quiet:
            if time.monotonic() - begun > most:
                raise TimeoutError(f"requests still come after {most} s")
            time.sleep(0.1)
