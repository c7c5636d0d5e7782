"""A process with a log, in Python and in Rust: both do what they are told, and say what is logged.

What they acknowledge are records as `("start", id)`, `("end", id)` or `("file", digest)`.
"""

import base64
import json
import os
import re
import signal
import subprocess
import threading
import uuid

from counting import HERE, KEY

CACHE = os.path.join(HERE, "../../.cache")
LAYOUT = os.path.join(".weave", "wal")
# What is neither answered nor ended by then has hung, and nothing is measured.
LONG = 120


class Process:
    def __init__(self, contender, command, key, env={}):
        self.contender = contender
        contender.processes.append(self)
        base = {"PATH": "/usr/bin:/bin", "HOME": contender.home, "WANDB_API_KEY": key}
        base |= {"WF_TRACE_SERVER_URL": contender.proxy.url}
        self.child = subprocess.Popen(
            command, env=base | env, cwd=contender.home, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )

    def answers(self, done, lines=""):
        """What it prints when it is told `lines`, until a line is `done` or it has ended."""
        found = []
        hung = threading.Event()
        watchdog = threading.Timer(LONG, lambda: (hung.set(), self.child.kill()))
        watchdog.start()
        try:
            self.child.stdin.write(lines)
            self.child.stdin.flush()
        except BrokenPipeError:  # it has ended, and may have answered before
            pass
        for line in self.child.stdout:
            found.append(line.split())
            if line.strip() == done:
                break
        watchdog.cancel()
        if hung.is_set():
            raise TimeoutError(f"no {done!r} within {LONG} s: {self.child.args}")
        return found

    def kill(self):
        self.child.kill()
        self.child.wait()

    def end(self):
        """The normal end: nothing more will come."""
        self.child.stdin.close()
        self.wait()

    def wait(self):
        try:
            self.child.wait(LONG)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def terminate(self):
        self.child.send_signal(signal.SIGTERM)
        self.wait()


class Contender:
    def __init__(self, project, home, server, proxy):
        self.project, self.home, self.server, self.proxy = project, home, server, proxy
        self.processes = []

    def logs(self):
        """The directory below which its log is."""
        return os.path.join(self.home, LAYOUT)


class Python(Contender):
    """Weave's client with `WEAVE_ENABLE_WAL=true`: sends from its own background thread."""

    name = "Python"

    class Live(Process):
        def do(self, what):
            """An acknowledgement is the call that has returned."""
            answers = self.answers("done", what + "\n")
            told = [words[1] for words in answers if words[:1] == ["returned"]]
            return [(half, id) for id in told for half in ("start", "end")]

        def calls(self, n):
            return self.do(f"calls {n}")

        def poison(self):
            return self.do("poison")

        def file(self, path):
            self.do(f"file {path}")

    def env(self, server):
        path = os.path.abspath(os.path.join(CACHE, "weave-client"))
        account = f"http://127.0.0.1:{self.server.port}"
        env = {"PYTHONPATH": path, "WANDB_BASE_URL": account, "WANDB_ERROR_REPORTING": "false"}
        return env | {"WEAVE_ENABLE_WAL": "true"}

    def command(self, *words):
        return [os.path.abspath(os.path.join(CACHE, "weave-venv/bin/python")), *words]

    def start(self, key=KEY):
        script = os.path.abspath(os.path.join(HERE, "client.py"))
        command = self.command(script, "trouble", self.project)
        live = self.Live(self, command, key, self.env(self.server))
        live.answers("done")
        return live

    def start_again(self):
        """What is left over is delivered by the next process that opens the directory."""
        return self.start()

    def sidecar(self):
        """Its own sender as a process, over the one directory with files that there is."""
        entity, project = self.project.split("/")
        script = "from weave.durability.wal_sender import main; print('done', flush=True); main()"
        command = self.command("-c", script, "--entity", entity, "--project", project)
        for place, _, files in os.walk(self.logs()):
            if files:
                command += ["--wal-dir", place]
        sender = Process(self, command, KEY, self.env(self.server))
        sender.answers("done")
        return sender


class Ours(Contender):
    """`weave-wal append --send`: this library in a process that logs and sends."""

    name = "weave-wal"

    class Live(Process):
        said = 0

        def append(self, records):
            """An acknowledgement is the number of a line that is safe."""
            self.said += len(records)
            lines = "".join(json.dumps(record) + "\n" for record in records)
            return len(self.answers(str(self.said), lines))

        def calls(self, n, step=1):
            halves = []
            for n in range(n):
                id = str(uuid.uuid4())
                for half in ("start", "end"):
                    halves.append((half, id, call_half(self.contender.project, half, id, step)))
            told = self.append([record for _, _, record in halves])
            return [(half, id) for half, id, _ in halves[:told]]

        def poison(self):
            return self.calls(1, -1)

        def file(self, path):
            with open(path, "rb") as file:
                content = base64.b64encode(file.read()).decode()
            project = self.contender.project
            req = {"project_id": project, "name": "f", "content_base64": content}
            self.append([{"type": "file_create", "req": req}])

    binary = None

    def start(self, key=KEY):
        command = [self.binary, "append", "--project", self.project, "--root", self.logs()]
        return self.Live(self, [*command, "--ack", "--send", "--timeout", "10"], key)

    def start_again(self):
        return Process(self, [self.binary, "send", "--root", self.logs(), "--timeout", "60"], KEY)

    def sidecar(self):
        return Process(self, [self.binary, "send", "--root", self.logs(), "--watch"], KEY)


def call_half(project, half, id, step=1):
    """The record of one half of a call."""
    call = {"project_id": project, "id": id}
    if half == "start":
        call |= {"trace_id": id.rjust(32, "0"), "op_name": "add", "attributes": {}, "inputs": {}}
        call |= {"started_at": "2026-01-01T00:00:00Z", "wb_run_step": step}
    else:
        call |= {"ended_at": "2026-01-01T00:00:01Z", "output": 1, "summary": {}}
        call |= {"wb_run_step_end": step}
    return {"type": f"call_{half}", "req": {half: call}}


def kept(contender, record):
    """Is it still in a file, be it a log or a dead letter?"""
    half, id = record
    wanted = re.compile(rf'"call_{half}".*"{id}"'.encode())
    for place, _, files in os.walk(contender.home):
        for name in files:
            with open(os.path.join(place, name), "rb") as file:
                if wanted.search(file.read()):
                    return True
    return False
