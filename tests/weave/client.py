"""What the tests let Weave's own Python client do. Its server, key and home are in the environment.

    client.py log E/P         logs calls, objects, a dataset and files, then ends
    client.py live E/P        does what standard input says, line by line, until it is closed
    client.py trouble E/P     the same, and tells which calls have returned
    client.py send DIRECTORY  runs Weave's own sender over a directory, once
"""

import asyncio
import os
import sys
import threading

import weave
from weave.trace_server_bindings import call_batch_processor


@weave.op
def add(a, b):
    return a + b


@weave.op
def fail(reason):
    raise ValueError(reason)


@weave.op
def nested(text):
    return {"sum": add(2**70, 1), "text": text}


@weave.op
async def slow(n):
    await asyncio.sleep(0.01)
    return n


def log(project):
    """Everything that is special in a log of Python's."""
    client = weave.init(project)
    for text in ("plain", "a\u2028b", "caf\u00e9 \U0001f980", "nul\0byte", "new\nline", "\ud800"):
        nested(text)
    try:
        fail("on purpose")
    except ValueError:
        pass

    async def many():
        await asyncio.gather(*(slow(n) for n in range(20)))

    asyncio.run(many())
    threads = [threading.Thread(target=add, args=(n, n)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    weave.publish({"model": "m", "temperature": 0.5}, name="settings")
    weave.publish(weave.Dataset(name="rows", rows=[{"n": n, "square": n * n} for n in range(5)]))
    client.flush()
    # With threads it happens that an end is written before its start.
    for n in range(3):
        call = {"project_id": project, "id": f"00000000-0000-7000-8000-00000000000{n}"}
        end = {"ended_at": "2026-01-01T00:00:01Z", "output": n, "summary": {}}
        start = {"op_name": "backwards", "trace_id": call["id"], "attributes": {}, "inputs": {}}
        client._wal.write("call_end", {"end": call | end})
        client._wal.write("call_start", {"start": call | start | {"started_at": "2026-01-01T00:00:00Z"}})


def live(project):
    client = weave.init(project)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "call":
            add(int(rest), 1)
        elif word == "write":  # as it is, without a newline
            file = client._wal._writer._writer._file
            file.write(rest.encode())
            file.flush()
        elif word == "rotate":  # to another file at so many bytes
            client._wal._writer._max_file_size = int(rest)
        elif word == "newline":
            file.write(b"\n")
            file.flush()
        client.flush()
        print("done", os.getpid(), flush=True)


def trouble(project):
    # At its end the client waits 5 minutes for the other halves of calls. None come any more.
    call_batch_processor.FLUSH_TIMEOUT_SECONDS = 20
    client = weave.init(project)
    print("done", flush=True)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "calls":
            for n in range(int(rest)):
                print("returned", add.call(n, 1)[1].id, flush=True)
        elif word == "poison":  # a step that the server does not take
            client.set_wandb_run_context("run", step=-1)
            print("returned", add.call(1, 1)[1].id, flush=True)
            client.flush()
            client.clear_wandb_run_context()
        elif word == "file":
            with open(rest, "rb") as file:
                weave.publish(weave.Content.from_bytes(file.read(), mimetype="image/png"))
            print("returned", rest, flush=True)
        print("done", flush=True)


def send(directory):
    from weave.durability.wal_sender import create_sender
    from weave.trace_server_bindings.remote_http_trace_server import RemoteHTTPTraceServer

    url, key = os.environ["WF_TRACE_SERVER_URL"], os.environ["WANDB_API_KEY"]
    print("sent", create_sender(directory, RemoteHTTPTraceServer(url, password=key)).drain_once())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
