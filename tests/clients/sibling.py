"""The calls of calls.json as a Python service makes them: httpx as it is, which follows no redirect."""

import json
import os
import pathlib
import uuid

import httpx

CALLS = json.loads(pathlib.Path(__file__).with_name("calls.json").read_text())


def filled(template, values):
    """The template with each {name} replaced, also inside lists and objects."""
    text = json.dumps(template)
    for name, value in values.items():
        text = text.replace("{%s}" % name, value)
    return json.loads(text)


def contains(found, wanted):
    """Whether all that is wanted is there; more may be."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(name in found and contains(found[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(contains, found, wanted))
    return found == wanted and type(found) is type(wanted)


def main():
    values = {"email": f"{uuid.uuid4().hex}@example.com", "push_token": f"device-{uuid.uuid4().hex}"}
    with httpx.Client(base_url=os.environ["BASE_URL"]) as client:
        ada = {"name": "Ada", "email": values["email"], "password": "TestPass123!", "push_token": values["push_token"]}
        registered = client.post("/api/v1/users/", json=ada)
        assert registered.status_code == 201, registered.text
        session = registered.json()["data"]
        values["user_id"] = session["user"]["id"]
        headers = {
            "user": {"Authorization": f"Bearer {session['access_token']}"},
            "service": {"X-Internal-API-Key": os.environ["SERVICE_KEY"]},
            None: {},
        }
        for call in CALLS:
            for slash in ["", "/"]:
                asked = filled(call, values | {"request_id": uuid.uuid4().hex})
                path = asked["path"] + slash + (f"?{asked['query']}" if "query" in asked else "")
                answer = client.request(asked["method"], path, json=asked.get("body"), headers=headers[asked.get("as")])
                told = f"{asked['what']} ({asked['method']} {path}): {answer.status_code} {answer.text}"
                assert answer.status_code == asked.get("status", 200), told
                body = answer.json()
                if "refused" in asked:
                    assert body["success"] is False and body["error"] == asked["refused"], told
                else:
                    assert asked.get("bare") or body["success"] is True, told
                    assert contains(body if asked.get("bare") else body["data"], asked["data"]), told
    print(f"httpx: {len(CALLS)} calls, with and without slash")


main()
