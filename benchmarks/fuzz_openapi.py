"""Schemathesis against a running service: every operation, with a token of every scope.

    python benchmarks/fuzz_openapi.py --engine postgres --examples 40 --seed 7 --out RESULT.json

The service follows a patient with alarms and has subscriptions, so that calls
meet what is there. ``schemathesis.toml`` says which refusal by meaning is allowed
to which operation, and why; all checks are made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from _common import load, save
from _service import Nursery, Postgres, Running

SETTINGS = Path(__file__).with_name("schemathesis.toml")
# Half of the values of these parameters are of what is there.
BOUND = {
    "path.site": "sites", "query.site": "sites", "path.patient": "patients",
    "query.patient": "patients", "path.kind": "kinds", "path.identity": "names",
    "path.name": "services", "body.hook": "hooks", "body.primary": "versions",
    "body.context.patientId": "patients",
}  # fmt: skip
SCOPES = ("read", "act", "ingest", "audit", "admin", "subscribe")
T0 = 1_767_225_600.0
HOOK = "http://127.0.0.1:9/hook"
SICK = (("9279-1", 30.0, "/min"), ("59408-5", 84.0, "%"), ("8480-6", 82.0, "mm[Hg]"),
        ("8867-4", 138.0, "/min"), ("8310-5", 39.4, "Cel"))  # fmt: skip


def settings(store: str) -> str:
    """The configuration of the service."""
    token = hashlib.sha256(b"fuzz").hexdigest()
    scopes = ", ".join(f'"{s}"' for s in SCOPES)
    return (
        f'[service]\nstore = "{store}"\npartitions = 2\nclock = "external"\n'
        "[mllp]\nport = 0\n[http]\nport = 0\nrequests_per_minute = 100000000\n"
        f'[subscriptions]\nendpoints = ["{HOOK}"]\nmost = 10000\n[sites.west]\n'
        f'[[tokens]]\nname = "fuzz"\nsha256 = "{token}"\nscopes = [{scopes}]\n'
    )


def furnish(client: httpx.Client) -> str:
    """A patient with an alarm, and two subscriptions; what Schemathesis may draw from, in TOML."""
    for hour in range(3):
        entries = []
        for code, value, unit in SICK:
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(T0 + 3600 * hour + 60))
            entries.append({"resource": {
                "resourceType": "Observation", "id": f"{hour}-{code}", "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
                "subject": {"reference": "Patient/p1"}, "effectiveDateTime": moment,
                "issued": moment, "valueQuantity": {"value": value, "unit": unit},
            }})  # fmt: skip
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
        client.post("/fhir?site=west", json=bundle).raise_for_status()
        client.post("/v1/clock", json={"time": T0 + 3600 * (hour + 1) + 1}).raise_for_status()
    for topic in ("alarm", "risk-assessment"):
        told = {
            "resourceType": "Subscription", "status": "requested", "reason": "fuzz",
            "criteria": f"urn:foretell:topic:{topic}",
            "channel": {"type": "rest-hook", "endpoint": HOOK},
        }  # fmt: skip
        client.post("/fhir/Subscription", json=told).raise_for_status()
    end = time.monotonic() + 60
    while not (notes := client.get("/v1/alarms").json()["notes"]):
        if time.monotonic() > end:
            raise SystemExit("no alarm was raised")
        time.sleep(0.05)
    found = client.get("/fhir/Subscription").json()["entry"]
    services = client.get("/cds-services").json()["services"]
    drawn = {
        "sites": ["west"], "patients": ["p1"], "names": [
            *(n["key"] for n in notes[:3]), *(e["resource"]["id"] for e in found),
        ],
        "kinds": ["RiskAssessment", "Flag", "CommunicationRequest", "Provenance", "Observation"],
        "services": [s["id"] for s in services], "hooks": [s["hook"] for s in services],
        "versions": client.get("/v1/model").json()["loaded"],
    }  # fmt: skip
    lines = [f"[dictionaries.{name}]\nvalues = {json.dumps(v)}\n" for name, v in drawn.items()]
    lines.append("[parameters]\n")
    lines += [f'"{k}" = {{ dictionary = "{v}", probability = 0.5 }}\n' for k, v in BOUND.items()]
    return "".join(lines)


def campaign(url: str, args: argparse.Namespace, folder: Path, drawn: str) -> dict[str, Any]:
    """Runs Schemathesis; what it has tried and what it objects to.

    The clock comes last: a time far ahead ends all stays.
    """
    (folder / "schemathesis.toml").write_text(SETTINGS.read_text() + drawn)
    found = [
        _run(url, args, folder, "--exclude-path", "/v1/clock"),
        _run(url, args, folder, "--include-path", "/v1/clock"),
    ]
    out: dict[str, Any] = {}
    for one in found:
        for name, value in one.items():
            if isinstance(value, dict):
                out[name] = dict(sorted((Counter(out.get(name, {})) + Counter(value)).items()))
            else:
                out[name] = out.get(name, 0) + value
    return out


def _run(url: str, args: argparse.Namespace, folder: Path, *more: str) -> dict[str, Any]:
    report, told = folder / "report.ndjson", folder / "schemathesis.toml"
    report.unlink(missing_ok=True)
    program = "import sys; from schemathesis.cli import schemathesis; schemathesis()"
    command = [
        sys.executable, "-c", program, "--config-file", str(told), "run",
        f"{url}/openapi.json", "--header", "Authorization: Bearer fuzz", "--workers", "1",
        "--phases", args.phases, "--max-examples", str(args.examples), "--seed", str(args.seed),
        "--continue-on-failure", "--no-shrink", "--suppress-health-check", "all",
        "--generation-database", "none", "--exclude-path", "/v1/alarms/stream",
        "--request-timeout", "30", "--report", "ndjson", "--report-ndjson-path", str(report),
        "--no-color", *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if args.words is not None:
        with args.words.open("a") as words:
            words.write(done.stdout + done.stderr)
    if not report.exists():
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    return {**read_report(report), "status": done.returncode}


def read_report(report: Path) -> dict[str, Any]:
    """Calls by status, and objections by check and operation, of a report."""
    statuses: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    objections: Counter[str] = Counter()
    operations: set[str] = set()
    errors: Counter[str] = Counter()
    with report.open() as lines:
        for line in lines:
            told = json.loads(line)
            held = told.get("ScenarioFinished")
            if held is None:
                error = told.get("NonFatalError") or told.get("FatalError")
                if error is not None:
                    errors[json.dumps(error)[:300]] += 1
                continue
            recorder = held["recorder"]
            for name, one in recorder["cases"].items():
                operations.add(recorder["label"])
                meta = one["value"].get("meta") or {}
                modes[(meta.get("generation") or {}).get("mode", "none")] += 1
                for check in recorder["checks"].get(name, ()):
                    if check["status"] != "success":
                        objections[f"{check['name']}: {recorder['label']}"] += 1
            for one in recorder["interactions"].values():
                answer = one.get("response")
                statuses["none" if answer is None else str(answer["status_code"])] += 1
    return {
        "operations": len(operations), "calls": sum(statuses.values()),
        "statuses": dict(sorted(statuses.items())), "modes": dict(modes),
        "objections": dict(sorted(objections.items())), "errors": dict(errors),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--examples", type=int, default=30, help="of an operation while fuzzing")
    parser.add_argument("--phases", default="coverage,fuzzing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", type=Path, help="where what Schemathesis says is kept")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    # In memory, where it can be: what is tested is what is read, not the disk.
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="fapi", dir=fast))
    begun, before = time.monotonic(), load()
    nursery = Nursery()
    database: Postgres | None = None
    service: Running | None = None
    try:
        store = str(folder / "s.db")
        if args.engine == "postgres":
            place = folder / "pg"
            place.mkdir()
            folder.chmod(0o755)
            database = Postgres(place)
            store = database.address
        config = folder / "c.toml"
        config.write_text(settings(store))
        service = nursery.start(config, "ingest,worker,dispatcher")
        url = f"http://127.0.0.1:{service.ports['http']}"
        with httpx.Client(
            base_url=url, timeout=60, headers={"Authorization": "Bearer fuzz"}
        ) as client:
            drawn = furnish(client)
            found = campaign(url, args, folder, drawn)
            alive = service.alive and client.get("/healthz").status_code == 200
        log = service.text()
        signs = [s for s in ("Traceback", "a request failed", "ended:", "is left out",
                             "cannot be folded", "were not stored") if s in log]  # fmt: skip
    finally:
        if service is not None:
            service.kill()
        nursery.close()
        if database is not None:
            database.stop()
        shutil.rmtree(folder, ignore_errors=True)
    out = {
        "engine": args.engine, "seed": args.seed, "examples": args.examples,
        "phases": args.phases, "seconds": round(time.monotonic() - begun), "load": before,
        **found, "alive": alive, "signs_in_the_log": signs,
    }  # fmt: skip
    print(json.dumps(out, indent=1))
    save(args.out, out)
    if found["objections"] or found["errors"] or signs or not alive:
        if signs:
            print(log[-3000:], file=sys.stderr)
        raise SystemExit("there are objections")


if __name__ == "__main__":
    main()
