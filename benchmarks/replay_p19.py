"""Acceptance: 500 stays of the 2019 challenge as a rough feed against the running service.

    python benchmarks/replay_p19.py --engine sqlite --out results.json
    python benchmarks/replay_p19.py --engine postgres --worker-kills 20 --service-kills 5

The stays are sent by HL7 v2 and FHIR in turns, with repeated, late, damaged and corrected messages,
other units, local times through a change of the clock, two frames in a segment and frames byte
after byte. A model trained on other stays, its gate and its policy are the service's. Door, two
workers and sender are processes of their own, some of which are killed meanwhile; the receiver of
alarms fails for its first minute. In the end every score and every alarm must be what the
deployment says of the tables, every acknowledged message must be in the log, and every alarm must
have one RiskAssessment. At last the workers are stopped, and the service has to say so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from _acceptance import FakeEhr, Sender, compared, logged, settled, told_in_order
from _service import Nursery, Postgres, Running
from soak_serving import free_port

from foretell.data.clinical import UnitRepair
from foretell.data.clinical.stays import Stays, concatenate
from foretell.data.public import physionet2019
from foretell.decisions.abstention import Gate, MondrianConformal
from foretell.decisions.alarms import AlarmPolicy, Tier
from foretell.estimators.risk import FeedForwardRisk
from foretell.serving.config import read_config
from foretell.serving.deployment import Deployment
from foretell.serving.rough_feed import Roughness, plain_names, rough_feed
from foretell.serving.service import make_fold
from foretell.serving.store import open_store
from foretell.serving.worker.worker import rebuild

TOKEN = "replay"
ZONES = {"A": "Europe/Berlin", "B": "America/New_York"}
ROLES = {"door": "ingest", "worker a": "worker", "worker b": "worker", "sender": "dispatcher"}
# Berlin's clock goes back an hour in the second night.
BEGIN = datetime(2026, 10, 24, 12, tzinfo=UTC).timestamp()


def some_stays(root: Path, hospital: str, count: int, begin: int) -> Stays:
    """Stays that begin with their first hour, with what a feed tells of patients and no more."""
    stays = physionet2019(root, hospitals=(hospital,))
    stays = stays.select(np.flatnonzero(np.asarray(stays.starts) == 1)[begin : begin + count])
    age = np.minimum(np.floor(stays.number("age")), 90.0)
    return plain_names(replace(stays, numbers={"age": age}))


def trained(root: Path, folder: Path, train: int, held: int) -> Deployment:
    """A small net with gate and policy, learned from other stays than those that are played."""
    learn = concatenate([some_stays(root, h, train // 2, 3000) for h in "AB"])
    tune = concatenate([some_stays(root, h, held // 2, 3000 + train) for h in "AB"])
    model = FeedForwardRisk(hidden=(32,), n_knots=8, max_steps=600, patience=9, threads=1)
    model.fit(learn, validation=tune)
    risk = model.predict_proba(tune)[:, 1]
    gate = Gate(conformal=MondrianConformal(alpha=0.1), ambiguity=0.2).fit(learn, tune, risk)
    low, high = np.quantile(risk, [0.9, 0.98]).tolist()
    policy = AlarmPolicy(tiers=(Tier("advisory", low), Tier("urgent", high)), snooze=6)
    repair = UnitRepair.fit(learn)
    return Deployment(model, gate, policy, repair).save(folder)


class Ward:
    """The service's processes."""

    def __init__(self, args: argparse.Namespace, folder: Path, run: Path, ehr: FakeEhr) -> None:
        self.random = random.Random(args.seed)
        self.folder, self.run = folder, run
        self.database = Postgres(folder) if args.engine == "postgres" else None
        self.address = str(folder / "s.db") if self.database is None else self.database.address
        self.ports = {"mllp": free_port(), "http": free_port()}
        self.nursery = Nursery(nets=True)
        self.configs: dict[str, Path] = {}
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        for name in ROLES:
            door = name == "door"
            text = (
                f'[service]\nstore = "{self.address}"\nclock = "external"\ntick_seconds = 1.0\n'
                f"partitions = 8\n[mllp]\nport = {self.ports['mllp'] if door else 0}\n"
                f"[http]\nport = {self.ports['http'] if door else 0}\n"
                f'[[tokens]]\nname = "replay"\nsha256 = "{digest}"\n'
                'scopes = ["admin", "ingest", "read"]\n'
                f'[[sinks]]\nname = "ehr"\nkind = "fhir"\nurl = "{ehr.address}"\n'
                "timeout_seconds = 1.0\nattempts = 1000\nlongest_pause_seconds = 2.0\n"
            )
            text += "".join(f'[sites.{s}]\nzone = "{z}"\n' for s, z in ZONES.items())
            self.configs[name] = folder.parent / f"{folder.name}-{name.replace(' ', '-')}.toml"
            self.configs[name].write_text(text)
        self.running: dict[str, Running] = {}
        self.start("door")
        for name in ROLES:
            if name != "door":
                self.start(name)
        self.kills = {"workers": 0, "whole service": 0}
        self.peak = 0.0

    def start(self, name: str) -> None:
        self.running[name] = self.nursery.start(self.configs[name], ROLES[name], self.run)

    def kill_a_worker(self) -> None:
        name = self.random.choice(("worker a", "worker b"))
        self.peak = max(self.peak, self.running[name].memory())
        self.running[name].kill()
        self.kills["workers"] += 1
        self.start(name)

    def kill_all(self) -> None:
        for one in self.running.values():
            one.signal(signal.SIGKILL)
        for one in self.running.values():
            one.kill()
        self.kills["whole service"] += 1
        for name in ROLES:
            self.start(name)

    def log(self) -> str:
        files = self.folder.parent.glob(f"{self.folder.name}-*.log")
        return "".join(f.read_text("utf-8", "replace") for f in files)

    def ready(self) -> tuple[int, list[str], float]:
        """Status and problems of /readyz, and the age of the heartbeat."""
        base = f"http://127.0.0.1:{self.ports['http']}"
        answer = httpx.get(f"{base}/readyz", timeout=10)
        age = float("nan")
        for line in httpx.get(f"{base}/metrics", timeout=10).text.splitlines():
            if line.startswith("foretell_heartbeat_age"):
                age = float(line.split()[-1])
        return answer.status_code, answer.json()["problems"], age

    def close(self) -> None:
        for one in self.running.values():
            one.kill()
        self.nursery.close()
        if self.database is not None:
            self.database.stop()
        for file in self.folder.parent.glob(f"{self.folder.name}-*"):
            file.unlink()


def accept(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    root = args.data
    model = args.model or folder / "run"
    begun = time.monotonic()
    if not (model / "deployment.json").exists():
        trained(root, model, args.train, args.train // 2)
    deployment = Deployment.load(model)
    stays = concatenate([some_stays(root, h, args.stays // 2, 0) for h in "AB"])
    # Half of the stays in the evening before the change of the clock, half after.
    feed = rough_feed(stays, Roughness(zones=ZONES), begin=BEGIN, spread=24.0, site="hospital",
                      seed=args.seed)  # fmt: skip
    print(f"{len(feed)} messages of {len(stays)} stays after {time.monotonic() - begun:.0f} s",
          flush=True)  # fmt: skip
    ehr = FakeEhr(fails=args.fails, seed=args.seed)
    ward = Ward(args, folder, model, ehr)
    sender = Sender(ward.ports, TOKEN, seed=args.seed)
    try:
        draw = random.Random(args.seed + 1)
        when = draw.sample(range(len(feed) // 20, len(feed)), args.worker_kills)
        all_at = draw.sample(range(len(feed) // 20, len(feed)), args.service_kills)
        acts = {**dict.fromkeys(when, ward.kill_a_worker), **dict.fromkeys(all_at, ward.kill_all)}
        lost = 0
        store = open_store(ward.address, partitions=8)

        def meanwhile(number: int) -> None:
            nonlocal lost
            if number % 2000 == 0:
                print(f"\r{number} sent, kills {ward.kills}", end="", flush=True)
            act = acts.get(number)
            if act is not None:
                act()
                lost += len(sender.acknowledged - logged(store))

        begun = time.monotonic()
        sender.play(feed, meanwhile=meanwhile)
        played = time.monotonic() - begun
        settled(store)
        folded = time.monotonic() - begun
        ward.peak = max(ward.peak, *(ward.running[w].memory() for w in ("worker a", "worker b")))
        end = time.monotonic() + 300
        while store.counts()["outbox"] > 0 and time.monotonic() < end:
            time.sleep(0.2)
        drained = time.monotonic() - begun
        out = compared(store, deployment, stays, "hospital")
        keys, order = set(out.pop("alarm_keys")), told_in_order(store)
        told = {name for kind, name in ehr.created if kind == "RiskAssessment"}
        flags = {name for kind, name in ehr.created if kind == "Flag"}
        lost += len(sender.acknowledged - logged(store))
        good = {(s.door, s.site, s.name) for s in feed if s.good}
        steps = [ward.ready()]
        for name in ("worker a", "worker b"):
            ward.running[name].kill()
        time.sleep(8)
        steps.append(ward.ready())
        log = ward.log()
        names = {str(n) for n in (*stays.patients, *stays.ids)}
        metrics = httpx.get(f"http://127.0.0.1:{ward.ports['http']}/metrics").text
        result = {
            "engine": args.engine, "seed": args.seed, "model": deployment.version,
            "messages": len(feed), "hl7": sum(s.door == "hl7" for s in feed),
            "damaged": sum(not s.good for s in feed), "refused": dict(sender.refused),
            "answered_wrongly": len(sender.wrong), "first_wrong": sender.wrong[:3],
            "segments": dict(sender.segments), "connections_lost": sender.reconnected,
            **out, "kills": ward.kills,
            "acknowledged": len(sender.acknowledged), "acknowledged_and_lost": lost,
            "never_acknowledged": len(good - sender.acknowledged),
            "seconds": {"sent": round(played), "folded": round(folded), "told": round(drained)},
            "ehr": {
                "answered_500": ehr.failures, "answered_too_late": ehr.timeouts,
                "sent_again_and_known": ehr.repeated,
                "assessments_more_than_once": sum(n > 1 for n in ehr.created.values()),
                "alarms_without_flag": len(keys - flags), "flags_without_alarm": len(flags - keys),
                "assessments": len(told),
                "patients_out_of_order": sum(ehr.order[p] != o for p, o in order.items()),
                "waiting": store.counts()["outbox"],
            },
            "ready_before": steps[0], "ready_without_workers": steps[1],
            "identifiers_in_logs": sum(n in log for n in names),
            "identifiers_in_metrics": sum(n in metrics for n in names),
            "events_left_out": log.count("is left out"),
            "worker_mb": round(ward.peak), "load": os.getloadavg()[0],
        }  # fmt: skip
        if args.rebuild:
            again = open_store(folder.parent / f"{folder.name}-again.db", partitions=8)
            config = read_config(ward.configs["door"])
            rebuild(store, again, lambda: make_fold(config, deployments=[deployment]))
            result["replay_is_identical"] = again.fingerprint() == store.fingerprint()
            again.close()
        store.close()
        return result
    finally:
        sender.close()
        ward.close()
        ehr.close()


def failures(result: dict[str, Any]) -> list[str]:
    """What is not as it has to be."""
    ehr = result["ehr"]
    zero = ("hours_that_differ", "alarms_missing", "alarms_too_many", "alarms_doubled",
            "acknowledged_and_lost", "never_acknowledged", "answered_wrongly",
            "identifiers_in_logs", "identifiers_in_metrics", "events_left_out")  # fmt: skip
    out = [name for name in zero if result[name]]
    zero = ("assessments_more_than_once", "alarms_without_flag", "flags_without_alarm",
            "patients_out_of_order", "waiting")  # fmt: skip
    out += [name for name in zero if ehr[name]]
    if not result["most_difference"] <= 1e-6:
        out.append("most_difference")
    if result["ready_before"][0] != 200 or result["ready_without_workers"][0] != 503:
        out.append("ready")
    if result.get("replay_is_identical") is False:
        out.append("replay_is_identical")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--stays", type=int, default=500)
    parser.add_argument("--train", type=int, default=2000, help="stays to learn from")
    parser.add_argument("--model", type=Path, help="folder of the deployment; made if not there")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FORETELL_DATA", ".")))
    parser.add_argument("--worker-kills", type=int, default=20)
    parser.add_argument("--service-kills", type=int, default=5)
    parser.add_argument("--fails", type=float, default=60.0, help="seconds that the EHR fails")
    parser.add_argument("--rebuild", action="store_true", help="fold the log anew and compare")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.data = args.data / "physionet2019_sepsis"
    folder = Path(tempfile.mkdtemp(prefix="freplay"))
    try:
        result = accept(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n" + json.dumps(result, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    wrong = failures(result)
    if wrong:
        raise SystemExit(f"not accepted: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
