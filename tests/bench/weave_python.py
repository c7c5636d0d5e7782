"""Weave's Python log at work; prints records per second.

    weave_python.py write DIRECTORY RECORDS REQUEST
    weave_python.py send DIRECTORY RECORDS URL
"""

import json
import sys
import time


def write(directory, records, request):
    from weave.durability.wal_directory_manager import FileWALDirectoryManager
    from weave.durability.wal_writer import JSONLWALWriter

    request = json.loads(request)
    manager = FileWALDirectoryManager(directory)
    with JSONLWALWriter(manager, fsync_batch_size=1 << 60, fsync_timeout=0) as writer:
        begin = time.perf_counter()
        for _ in range(records):
            writer.write({"type": "call_start", "req": request})
        return records / (time.perf_counter() - begin)


def send(directory, records, url):
    from weave.durability.wal_sender import create_sender
    from weave.trace_server_bindings.remote_http_trace_server import RemoteHTTPTraceServer

    sender = create_sender(directory, RemoteHTTPTraceServer(url, password="x" * 40))
    begin = time.perf_counter()
    sent = sender.drain_once()
    took = time.perf_counter() - begin
    assert sent == records, sent
    return records / took


if __name__ == "__main__":
    print(globals()[sys.argv[1]](sys.argv[2], int(sys.argv[3]), sys.argv[4]))
