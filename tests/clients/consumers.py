"""The sample consumers, each in its process: a registration's mail and a push arrive at them, enriched, once."""

import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).parents[2]
CONSUMERS = ROOT / "examples" / "consumers"
NODE_PATH = next(ROOT.glob(".local/tools/amqplib-*/node_modules"))


def start(command, lines):
    """Its lines go into the queue as they come."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"NODE_PATH": str(NODE_PATH)})
    threading.Thread(target=lambda: [lines.put(line.strip()) for line in process.stdout], daemon=True).start()
    return process


def post(path, body, headers=()):
    request = urllib.request.Request(
        os.environ["BASE_URL"] + path, json.dumps(body).encode(), {"Content-Type": "application/json"} | dict(headers)
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)["data"]


def wait_for_queues():
    """The worker declares them before it says that it is connected."""
    for _ in range(300):
        with urllib.request.urlopen(os.environ["BASE_URL"] + "/health", timeout=10) as answer:
            if json.load(answer)["data"]["queues"]:
                return
        time.sleep(0.1)
    raise AssertionError("the worker did not connect within 30 seconds")


def main():
    wait_for_queues()
    lines = queue.Queue()
    processes = [
        start([sys.executable, CONSUMERS / "push_service.py"], lines),
        start(["node", CONSUMERS / "email_service.mjs"], lines),
    ]
    try:
        email, token = f"{uuid.uuid4().hex}@example.com", f"device-{uuid.uuid4().hex}"
        ada = post("/api/v1/users/", {"name": "Ada", "email": email, "password": "TestPass123!", "push_token": token})
        push = {"notification_type": "push", "user_id": ada["user"]["id"], "template_code": "WELCOME", "variables": {"n": 7}, "request_id": uuid.uuid4().hex}
        post("/api/v1/push-requests/", push, {"X-Internal-API-Key": os.environ["SERVICE_KEY"]})
        # Others, who registered before, have their mails here too.
        mail, pushed = f"mail email_verification to Ada <{email}>, with a link", f'push to {token} for Ada: WELCOME {{"n": 7, "name": "Ada"}}'
        told = []
        while not {mail, pushed} <= set(told):
            told.append(lines.get(timeout=30))
    finally:
        for process in processes:
            process.terminate()
            process.wait(timeout=10)
    assert (told.count(mail), told.count(pushed)) == (1, 1), told
    print("consumers: a mail and a push, each once", file=sys.stderr)


main()
