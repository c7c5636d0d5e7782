"""The published Weave trace server on loopback, for the tests.

Storage, models, validation and errors are those of the `weave` package, on a ClickHouse engine
inside this process (`chdb`). Only the HTTP around them, which is not published, is made here.

    python server.py API_KEY     prints the port, serves until standard input is closed
"""

import base64
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

# Nothing is fetched, and nobody told.
os.environ.update(WANDB_ERROR_REPORTING="false", LITELLM_LOCAL_MODEL_COST_MAP="True")

# The package leaves out its table of model providers, which only chat completions need.
table = types.SimpleNamespace(VERTEX_PROVIDER_NAMES=frozenset())
table.LLMModelProviderInfo = table.read_model_to_provider_info_map = dict
PROVIDERS = "weave.trace_server.model_providers"
sys.modules.update({PROVIDERS: table, f"{PROVIDERS}.model_providers": table})

from chdb.cc_backend import ChdbClient
from pydantic import ValidationError
from weave.trace_server import trace_server_interface as api
from weave.trace_server.clickhouse_trace_server_batched import ClickHouseTraceServer
from weave.trace_server.errors import handle_server_exception
from weave.trace_server import external_to_internal_trace_server_adapter as adapter

ENGINE = threading.RLock()
MAX_BODY = 32 << 20


def alone(statement, *args, **kwargs):
    """The engine has one session in a process: no statement may meet another half-way."""
    with ENGINE:
        return statement(*args, **kwargs)


class Engine(ChdbClient):

    def command(self, *args, **kwargs):
        return alone(super().command, *args, **kwargs)

    def data_insert(self, context):
        return alone(super().data_insert, context)

    def _query_with_context(self, context):
        context.streaming = False  # an open stream would be half-way, too
        return alone(super()._query_with_context, context)


class Storage(ClickHouseTraceServer):
    def __init__(self, directory):
        self.directory = directory
        super().__init__(host="inside", database="traces")
        self._run_migrations()

    def _mint_client(self, send_receive_timeout=None):
        client = Engine(chdb_path=self.directory)
        self._ensure_database(client)
        client.database = self._database
        return client


class Names(adapter.IdConverter):
    """Inside, a name is its own base64: as opaque as W&B's ids, and nothing to keep."""
    inside = lambda self, name: base64.b64encode(name.encode()).decode()
    outside = lambda self, inside: base64.b64decode(inside).decode()
    ext_to_int_project_id = ext_to_int_user_id = inside
    int_to_ext_project_id = int_to_ext_user_id = outside
    ext_to_int_run_id = lambda self, run: ":".join([self.inside(run[: run.rindex("/")]), run.split("/")[-1]])
    int_to_ext_run_id = lambda self, run: "/".join([self.outside(run.split(":")[0]), run.split(":")[1]])


# A method's name and its request's, by path; of `/v2/<entity>/<project>/x` it is `/v2/x`.
ROUTES = {
    "/call/start": ("call_start", "CallStartReq"),
    "/call/end": ("call_end", "CallEndReq"),
    "/call/upsert_batch": ("call_start_batch", "CallCreateBatchReq"),
    "/v2/calls/complete": ("calls_complete", "CallsUpsertCompleteReq"),
    "/v2/call/start": ("call_start_v2", "CallStartV2Req"),
    "/v2/call/end": ("call_end_v2", "CallEndV2Req"),
    "/obj/create": ("obj_create", "ObjCreateReq"),
    "/table/create": ("table_create", "TableCreateReq"),
    "/table/create_from_digests": ("table_create_from_digests", "TableCreateFromDigestsReq"),
    "/file/create": ("file_create", "FileCreateReq"),
    "/calls/stream_query": ("calls_query_stream", "CallsQueryReq"),
    "/calls/query_stats": ("calls_query_stats", "CallsQueryStatsReq"),
    "/obj/read": ("obj_read", "ObjReadReq"),
    "/objs/query": ("objs_query", "ObjQueryReq"),
    "/table/query": ("table_query", "TableQueryReq"),
    "/file/content": ("file_content_read", "FileContentReadReq"),
}


def account(body):
    """What Python's client asks of W&B itself when it starts: one answer to all its questions."""
    project = {"name": (json.loads(body).get("variables") or {}).get("name"), "description": None}
    viewer = {"username": "tester"}
    return {"viewer": viewer, "project": project, "upsertModel": {"model": project}}


def form(body, content_type):
    """The fields of a multipart form; the file among them is two."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    fields = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, value = part[2:-2].partition(b"\r\n\r\n")  # between two line ends
        line = next(l for l in head.decode().split("\r\n") if "form-data;" in l)
        words = dict(word.strip().split("=", 1) for word in line.split(";")[1:])
        fields[words["name"].strip('"')] = value
        if "filename" in words:
            fields |= {"name": words["filename"].strip('"'), "content": fields.pop("file")}
    return fields


def text(model):
    """`model_dump_json` would stop at half a surrogate pair."""
    return json.dumps(model.model_dump(mode="json")).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, b'{"min_required_weave_python_version":"0.50.0"}')

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/graphql":
            self.answer(200, json.dumps({"data": account(body)}).encode())
        elif self.headers.get("authorization") != self.server.authorization:
            self.answer(401, b'{"detail":"Invalid authentication credentials"}')
        elif len(body) > MAX_BODY:
            self.answer(413, b'{"detail":"Request too large"}')
        else:
            self.answer(*self.run(body))

    def run(self, body):
        path, project = unquote(self.path), None
        if path.startswith("/v2/"):
            _, _, entity, name, rest = path.split("/", 4)
            path, project = f"/v2/{rest}", f"{entity}/{name}"
        method, model = ROUTES.get(path, (None, None))
        if not method:
            return 404, b'{"detail":"Not Found"}'
        kind = self.headers.get("content-type") or ""
        try:
            fields = json.loads(body) if kind == "application/json" else form(body, kind)
            req = getattr(api, model).model_validate(fields)
            self.check(req, project)
            res = getattr(self.server.traces, method)(req)
            if path == "/file/content":
                return 200, res.content
            if path == "/calls/stream_query":
                return 200, b"".join(text(row) + b"\n" for row in res)
            return 200, text(res)
        except ValidationError as error:
            return 422, json.dumps({"detail": json.loads(error.json())}).encode()
        except Exception as error:
            known = handle_server_exception(error)
            return known.status_code, json.dumps(known.message).encode()

    def check(self, req, project):
        """A path names the project of what comes with it, and the key says who sends it."""
        for call in getattr(req, "batch", [req]):
            for inner in ("req", "start", "end", "obj"):
                call = getattr(call, inner, call)
            if project and call.project_id != project:
                raise ValueError(f"{call.project_id!r} is not the project of this path")
            if hasattr(call, "wb_user_id"):
                call.wb_user_id = "tester"

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    log_message = lambda self, *args: None


def main():
    directory = tempfile.mkdtemp(prefix="weave-server-")
    tempfile.tempdir = directory
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.authorization = "Basic " + base64.b64encode(f"api:{sys.argv[1]}".encode()).decode()
    server.traces = adapter.ExternalTraceServer(Storage(os.path.join(directory, "engine")), Names())
    logging.disable(logging.CRITICAL)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)  # the engine's own threads would keep the process


main()
