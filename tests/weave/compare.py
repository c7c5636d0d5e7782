"""The scenarios of `tests/weave/compare`, and the table of what came out.

    compare.py PATH-OF-WEAVE-WAL [SCENARIO…]

*On the server*: it returns the record when it is asked for the project. *Kept on disk*: not there,
but in a file below the process's home, be it a log or a dead letter. *Lost*: neither. *Duplicated*:
how often the server has taken, by a request that it answered with 2xx, what it had taken before.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time

from contenders import Ours, Python, call_half, kept
from counting import KEY, Proxy, Server

CALLS = 50
WRONG_KEY = KEY[::-1]
SCENARIOS = {}


def scenario(says):
    """Its name is the function's. It returns the records that were acknowledged."""

    def add(run):
        SCENARIOS[run.__name__.replace("_", "-")] = (says, run)

    return add


def again(contender):
    """A fresh process in the same directory gets its chance, for as long as it sends."""
    process = contender.start_again()
    contender.proxy.settle()
    process.end()


@scenario("the server is away until after the process has ended")
def outage(contender):
    process = contender.start()
    contender.proxy.go_away()
    acknowledged = process.calls(CALLS)
    process.end()
    contender.proxy.come_back()
    again(contender)
    return acknowledged


@scenario("the server is away for 30 s, and the process goes on")
def long_outage(contender):
    process = contender.start()
    contender.proxy.go_away()
    acknowledged = process.calls(CALLS)
    time.sleep(30)
    contender.proxy.come_back()
    acknowledged += process.calls(1)
    # No wait between two attempts is longer.
    contender.proxy.settle(quiet=30)
    process.end()
    again(contender)
    return acknowledged


@scenario("the server refuses the key; then a sender with the right one")
def wrong_key(contender):
    process = contender.start(WRONG_KEY)
    acknowledged = process.calls(CALLS)
    contender.proxy.settle()
    process.end()
    sender = contender.sidecar()
    contender.proxy.settle()
    sender.terminate()
    return acknowledged


@scenario("SIGKILL when the last of 500 calls has returned")
def sigkill(contender):
    process = contender.start()
    acknowledged = process.calls(500)
    process.kill()
    again(contender)
    return acknowledged


@scenario("the server is away; SIGKILL 5 s after the calls have returned; it is back")
def sigkill_in_an_outage(contender):
    process = contender.start()
    contender.proxy.go_away()
    acknowledged = process.calls(CALLS)
    time.sleep(5)
    process.kill()
    contender.proxy.come_back()
    again(contender)
    return acknowledged


@scenario("two processes log and send in one directory")
def two_processes(contender):
    first, second = contender.start(), contender.start()
    acknowledged = []
    for _ in range(10):
        acknowledged += first.calls(CALLS // 10) + second.calls(CALLS // 10)
        time.sleep(0.5)
    contender.proxy.settle()
    first.end()
    second.end()
    again(contender)
    return acknowledged


@scenario("a live writer stops for 3 s in the middle of a line; a sender runs beside it")
def half_written_line(contender):
    name, halves, lines = planted(contender)
    # To both senders a log belongs to the process whose PID is beside it.
    writer = subprocess.Popen(["sleep", "1000"])
    with open(name + ".lock", "w") as lock:
        lock.write(str(writer.pid))
    with open(name + ".jsonl", "ab", buffering=0) as log:
        log.write(b"".join(lines[:8]) + lines[8][:60])
        sender = contender.sidecar()
        contender.proxy.settle()
        time.sleep(3)
        log.write(lines[8][60:] + b"".join(lines[9:]))
    contender.proxy.settle()
    writer.kill()
    writer.wait()
    contender.proxy.settle()
    sender.terminate()
    return halves


@scenario("a power loss leaves NUL bytes before a line, and a newline is damaged")
def damaged_log(contender):
    name, halves, lines = planted(contender)
    lines[6] = bytes(500) + lines[6]
    lines[12] = lines[12].replace(b"\n", b"\x8a")
    with open(name + ".jsonl", "wb") as log:
        log.write(b"".join(lines))
    sender = contender.sidecar()
    contender.proxy.settle()
    sender.terminate()
    return halves


def planted(contender):
    """A log's path without its extension, 20 records and their lines."""
    place = os.path.join(contender.logs(), contender.project)
    os.makedirs(place)
    halves = [(half, f"{n:016x}") for n in range(1, 11) for half in ("start", "end")]
    lines = [json.dumps(call_half(contender.project, *half)).encode() + b"\n" for half in halves]
    return os.path.join(place, f"{1:020}_{1:032x}"), halves, lines


@scenario("the server refuses 2 of the calls (a step below 0)")
def poisoned_records(contender):
    process = contender.start()
    acknowledged = process.calls(CALLS // 3) + process.poison()
    acknowledged += process.calls(CALLS // 3) + process.poison() + process.calls(CALLS // 3)
    contender.proxy.settle()
    process.end()
    again(contender)
    return acknowledged


@scenario("an image is published")
def binary_file(contender):
    content = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 200
    path = os.path.join(contender.home, "image.png")
    with open(path, "wb") as file:
        file.write(content)
    process = contender.start()
    process.file(path)
    contender.proxy.settle()
    process.end()
    again(contender)
    return [("file", content)]


@scenario("the disk is full for a while, the server is there")
def full_disk(contender):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", contender.home]
    if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        return None
    process = contender.start()
    acknowledged = process.calls(10)
    contender.proxy.settle()
    ballast = os.path.join(contender.home, "ballast")
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            pass
    acknowledged += process.calls(CALLS)
    contender.proxy.settle()
    process.end()
    os.remove(ballast)
    process = contender.start()
    acknowledged += process.calls(10)
    contender.proxy.settle()
    process.end()
    again(contender)
    return acknowledged


def count(contender, acknowledged):
    """A row of the table: acknowledged, on the server, on the disk, lost, duplicated."""
    taken, server = contender.proxy.taken, contender.server
    there = server.halves(contender.project)
    row = {"acknowledged": len(acknowledged), "server": 0, "disk": 0, "lost": 0}
    for half, what in acknowledged:
        if half == "file":
            digest = server.digest(what)
            place = "server" if server.has_file(contender.project, digest, what) else "lost"
        elif (half, what) in there:
            place = "server"
        else:
            place = "disk" if kept(contender, (half, what)) else "lost"
        row[place] += 1
    row["duplicated"] = sum(n - 1 for (half, _), n in taken.items() if n > 1)
    return row


def run(name, server, scratch):
    """Both at the same time, each with a directory, a project and a proxy of its own."""
    rows = {}

    def one(kind):
        home = os.path.join(scratch, name, kind.name)
        os.makedirs(home)
        contender = kind(f"team/{name}-{kind.name}", home, server, Proxy(server))
        try:
            acknowledged = SCENARIOS[name][1](contender)
            if acknowledged is not None:
                rows[kind.name] = count(contender, acknowledged)
        finally:
            for process in contender.processes:
                process.kill()
            subprocess.run(["umount", home], stderr=subprocess.DEVNULL)

    threads = [threading.Thread(target=one, args=(kind,)) for kind in (Python, Ours)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows


def main():
    Ours.binary = os.path.abspath(sys.argv[1])
    wanted = sys.argv[2:] or list(SCENARIOS)
    if wanted == ["--list"]:
        for name, (says, _) in SCENARIOS.items():
            print(f"{name:20} {says}")
        return 0
    unknown = [name for name in wanted if name not in SCENARIOS]
    if unknown:
        print(f"no such scenario: {unknown[0]}; --list has them", file=sys.stderr)
        return 2
    server, failed = Server(), 0
    print("| what happens | log | acknowledged | on the server | kept on disk | lost |", end="")
    print(" duplicated |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="weave-compare-") as scratch:
        for name in wanted:
            rows = run(name, server, scratch)
            says = SCENARIOS[name][0]
            for kind in (Python.name, Ours.name):
                if kind in rows:
                    numbers = " | ".join(str(number) for number in rows[kind].values())
                    print(f"| {says} | {kind} | {numbers} |", flush=True)
                    says = ""
                else:
                    print(f"{name}: nothing was measured for {kind}", file=sys.stderr)
                    failed = 2
            if rows.get(Ours.name, {}).get("lost"):
                failed = failed or 1
    return failed


sys.exit(main())
