"""Looks at everything that a service stands on, before patients do."""

from __future__ import annotations

import ctypes
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

from foretell.data.clinical.feed import Measurement, OrderChange, Record, Refusal, VisitChange
from foretell.data.clinical.fhir import FhirError
from foretell.data.clinical.hl7 import Hl7Error, Message, split_messages
from foretell.errors import DataError, ForetellError, ParameterError
from foretell.serving.client_tls import client_tls
from foretell.serving.config import ClientTlsConfig, Config, TlsConfig
from foretell.serving.errors import ServingError
from foretell.serving.events import events_of
from foretell.serving.ingest.intake import Intake
from foretell.serving.ingest.mllp import server_tls
from foretell.serving.reach import why_away
from foretell.serving.rollout import check_pins, configured
from foretell.serving.service import make_fold
from foretell.serving.sites import panels_of
from foretell.serving.store import open_store

if TYPE_CHECKING:
    from foretell.serving.deployment import Deployment

State = Literal["ok", "warning", "wrong"]
_SYNCS = 40
_SLOW = 50.0
_SOON = 30 * 86400.0
_LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    text: str


@dataclass
class Sample:
    """What a feed holds, by code: counts only, no values and no patients.

    Attributes:
        messages: by type.
        refused: whole messages, by reason.
        channels: results that are known, by channel.
        unknown: results that are not known, by reason, system and code.
        units: of those whose unit is not known.
        treatments: orders, drugs and diagnoses, by what they say of treatment.
        drugs: codes of drugs that say nothing of treatment.
    """

    messages: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    channels: Counter[str] = field(default_factory=Counter)
    unknown: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    units: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    treatments: Counter[str] = field(default_factory=Counter)
    drugs: Counter[tuple[str, str]] = field(default_factory=Counter)
    visits: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values, the most frequent first."""
        return {
            "messages": dict(self.messages.most_common()),
            "refused": dict(self.refused.most_common()),
            "visits": self.visits,
            "known": dict(self.channels.most_common()),
            "unknown": [
                {"reason": r, "system": s, "code": c, "count": n}
                for (r, s, c), n in self.unknown.most_common()
            ],
            "units": [
                {"system": s, "code": c, "unit": u, "count": n}
                for (s, c, u), n in self.units.most_common()
            ],
            "treatments": dict(self.treatments.most_common()),
            "drugs_of_no_meaning": [
                {"system": s, "code": c, "count": n} for (s, c), n in self.drugs.most_common(50)
            ],
        }


def examine(config: Config, runs: Iterable[str | Path] = ()) -> Iterator[Finding]:
    """Looks at configuration, runs, store, clock, keys and certificates.

    Args:
        config: as it was read.
        runs: folders of runs, the one that speaks first; a candidate is the configuration's.
    """
    yield Finding("configuration", "ok", f"{len(config.sites)} sites, {len(config.tokens)} tokens")
    yield from _tokens(config)
    yield from _zones(config)
    yield from _panels(config)
    yield from _units(config)
    folders = [*runs, *([config.rollout.candidate] if config.rollout.candidate else [])]
    loaded = []
    for folder in folders:
        found, held = _run(folder)
        loaded += held
        yield found
    if len(loaded) == len(folders):
        yield from _rules(config, loaded)
    if not folders:
        yield Finding("run", "warning", f"none: the rule {config.model.rule} speaks")
    yield from _store(config)
    yield from _clock()
    for door, tls in (("mllp", config.mllp and config.mllp.tls),
                      ("http", config.http and config.http.tls)):  # fmt: skip
        if tls:
            yield from _tls(door, tls)
        elif _open_to_others(config, door):
            yield Finding(f"tls of {door}", "warning", "none, and others can reach it")
    for what, shown in _shown(config):
        yield from _client_tls(what, shown)
    yield from _files(config)


def _tokens(config: Config) -> Iterator[Finding]:
    if not config.tokens:
        yield Finding("tokens", "warning", "none: one is made for each run and printed")
    for token in config.tokens:
        if set(token.sha256) == {"0"}:
            yield Finding("tokens", "wrong", f"{token.name!r} has the hash of the example")
        for site in token.sites:
            if config.sites and site not in config.sites:
                yield Finding("tokens", "wrong", f"{token.name!r} names the unknown site {site!r}")


def _zones(config: Config) -> Iterator[Finding]:
    if not config.sites:
        yield Finding(
            "sites", "warning",
            "none: every sending facility (MSH-4) is one, in UTC, and what it calls itself is a "
            "label in /metrics; name them in [sites.x]",
        )  # fmt: skip
    for name, site in config.sites.items():
        zone = ZoneInfo(site.zone)
        year = datetime.now(UTC).year
        offsets = {datetime(year, m, 1, tzinfo=zone).utcoffset() for m in range(1, 13)}
        told = "with" if len(offsets) > 1 else "without"
        yield Finding(f"site {name}", "ok", f"{site.zone}, {told} summer time")


def _panels(config: Config) -> Iterator[Finding]:
    try:
        common, own = panels_of(config)
    except ForetellError as error:
        yield Finding("panels", "wrong", str(error))
        return

    def told(tables: Mapping[str, Any], file: str | None) -> str:
        here = [name for name, table in tables.items() if table.get("available", True)]
        return f"{', '.join(here)} can be ordered, by {file or 'the panels of foretell'}"

    if config.sensing.panels is not None:
        yield Finding("panels", "ok", told(common, config.sensing.panels))
    for name, tables in own.items():
        site = config.sites[name]
        costs = f"; costs of {', '.join(site.costs)} are the site's" if site.costs else ""
        text = told(tables, site.panels or config.sensing.panels) + costs
        yield Finding(f"panels of {name}", "ok", text)


def _units(config: Config) -> Iterator[Finding]:
    for name, site in config.sites.items():
        count = sum(1 if isinstance(v, str) else len(v) for v in site.units_of_measure.values())
        if count:
            yield Finding(f"units of {name}", "ok", f"{count} spellings of the site's own")


def _rules(config: Config, loaded: list[Deployment]) -> Iterator[Finding]:
    """Thresholds, silences and pins of sites, as a service would take them."""
    trial = loaded[-1] if config.rollout.candidate else None
    models = loaded[:-1] if trial is not None else loaded
    if trial is not None and not models:
        return
    try:
        fold = make_fold(config, deployments=models, candidate=trial)
        line = configured(
            fold.ladder.versions, None if trial is None else trial.version, config.rollout
        )
        check_pins(line, config.pins)
    except ForetellError as error:
        yield Finding("sites", "wrong", str(error))
        return
    for name, rules in fold.sites.items():
        tiers = ", ".join(f"{t.name} from {t.threshold:g}" for t in rules.policy.tiers)
        own = config.sites.get(name)
        told = own is not None and own.alarms.model_fields_set | own.quiet.model_fields_set
        by = "by tables of the site" if told else "by the run"
        yield Finding(f"alarms of {name}", "ok", f"{tiers}, {by}")
    for name, version in config.pins.items():
        yield Finding(f"model of {name}", "ok", f"pinned to {version}")


def _run(folder: str | Path) -> tuple[Finding, list[Deployment]]:
    from foretell.serving.deployment import Deployment

    try:
        found = Deployment.load(folder)
    except ForetellError as error:
        return Finding("run", "wrong", str(error)), []
    text = f"{found.version} in {folder}; its gate has {found.gate.calibration.words}"
    return Finding("run", "ok", text), [found]


def _store(config: Config) -> Iterator[Finding]:
    address = config.service.store
    is_file = "://" not in address
    if is_file and not Path(address).exists():
        folder = Path(address).absolute().parent
        if not os.access(folder, os.W_OK):
            yield Finding("store", "wrong", f"nothing can be written in {folder}")
            return
        yield Finding("store", "ok", "none yet: it will be made")
        yield from _syncs(folder)
        return
    try:
        store = open_store(address, partitions=config.service.partitions)
        counts = store.counts()
        last = store.last_recorded("control")
        begun = time.monotonic()
        for _ in range(_SYNCS):
            store.set_mark("doctor", "was here")
        rate = _SYNCS / max(time.monotonic() - begun, 1e-9)
        now: float = store._now()  # type: ignore[attr-defined]
        clocks = time.time() - now
        store.close()
    except ForetellError as error:
        told = "" if is_file or not isinstance(error, ServingError) else f"; {why_away(address)}"
        yield Finding("store", "wrong", f"{error}{told}")
        return
    text = f"{counts['events']:,.0f} events, {counts['stays']:,.0f} open stays"
    yield Finding("store", "ok", text)
    if last is not None:
        yield Finding("model in the log", "ok", f"{last['subject']}, decided by {last['actor']}")
    if counts["dead"]:
        yield Finding("outbox", "warning", f"{counts['dead']:,.0f} dead letters")
    if counts["quarantined"]:
        yield Finding("quarantine", "warning", f"{counts['quarantined']:,.0f} parts set aside")
    state: State = "ok" if rate >= _SLOW else "warning"
    yield Finding("commits", state, f"{rate:,.0f} a second, each waits for the disk")
    if is_file:
        yield from _syncs(Path(address).absolute().parent)
    elif abs(clocks) > 1.0:
        yield Finding("clock of the store", "wrong", f"{clocks:+.1f} s from ours")


def _syncs(folder: Path) -> Iterator[Finding]:
    """How often a second the disk keeps what it was told to keep."""
    file = folder / f".doctor-{os.getpid()}"
    try:
        with file.open("wb", buffering=0) as held:
            begun = time.monotonic()
            for _ in range(_SYNCS):
                held.write(bytes(4096))
                os.fsync(held.fileno())
            rate = _SYNCS / max(time.monotonic() - begun, 1e-9)
    except OSError as error:
        yield Finding("disk", "wrong", f"{error.strerror} in {folder}")
        return
    finally:
        file.unlink(missing_ok=True)
    if rate < _SLOW:
        yield Finding("disk", "warning", f"{rate:,.0f} syncs a second: bursts will wait")
    else:
        note = "" if rate < 50_000 else "; so many that it may not wait for the medium at all"
        yield Finding("disk", "warning" if note else "ok", f"{rate:,.0f} syncs a second{note}")


class _Timex(ctypes.Structure):
    # As adjtimex(2) of Linux wants it, with room behind for what is not looked at.
    _fields_ = [("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
                ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long),
                ("status", ctypes.c_int), ("rest", ctypes.c_char * 256)]  # fmt: skip


def _clock() -> Iterator[Finding]:
    try:
        told = _Timex()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(told))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        yield Finding("clock", "warning", "the system does not say whether it is synchronised")
    elif told.status & 0x40 or state == 5:
        yield Finding("clock", "warning", "not synchronised: is a time service running?")
    else:
        yield Finding("clock", "ok", f"synchronised, at most {told.maxerror / 1e6:.2f} s off")
    if time.time() < 1.7e9:
        yield Finding("clock", "wrong", "it shows a time before this program was written")


def _open_to_others(config: Config, door: str) -> bool:
    settings = config.mllp if door == "mllp" else config.http
    return settings is not None and settings.host not in ("127.0.0.1", "::1", "localhost")


def _tls(door: str, tls: TlsConfig) -> Iterator[Finding]:
    what = f"tls of {door}"
    try:
        server_tls(tls, door)
    except ParameterError as error:
        yield Finding(what, "wrong", str(error))
        return
    yield _validity(what, tls.certificate)


def _shown(config: Config) -> Iterator[tuple[str, ClientTlsConfig]]:
    """What is said of TLS where the service connects, and whose it is."""
    for sink in config.sinks:
        if sink.tls is not None:
            yield f"the sink {sink.name!r}", sink.tls
    for poll in config.polls:
        if poll.tls is not None:
            yield f"the poll of {poll.site!r}", poll.tls


def _client_tls(what: str, tls: ClientTlsConfig) -> Iterator[Finding]:
    """What is shown where the service connects, and whom it believes."""
    try:
        client_tls(tls, what)
    except ParameterError as error:
        yield Finding(f"tls of {what}", "wrong", str(error))
        return
    if tls.certificate is None:
        yield Finding(f"tls of {what}", "ok", "authorities alone: nothing of ours is shown")
    else:
        yield _validity(f"tls of {what}", tls.certificate)


def _validity(what: str, certificate: str) -> Finding:
    from cryptography import x509

    found = x509.load_pem_x509_certificates(Path(certificate).read_bytes())[0]
    left = found.not_valid_after_utc.timestamp() - time.time()
    days = f"{left / 86400:,.0f} days"
    if left < 0:
        return Finding(what, "wrong", "the certificate has run out")
    if left < _SOON:
        return Finding(what, "warning", f"the certificate runs out in {days}")
    return Finding(what, "ok", f"valid for {days}")


def _files(config: Config) -> Iterator[Finding]:
    """Files of keys and secrets: there, and for nobody else to read."""
    secrets: list[tuple[str, str]] = []
    if config.service.pseudonym_key is not None and Path(config.service.pseudonym_key).exists():
        secrets.append(("pseudonym_key", config.service.pseudonym_key))
    elif config.service.pseudonym_key is None:
        yield Finding(
            "pseudonyms", "warning",
            "no service.pseudonym_key: they change with every start; name a file, it will be made",
        )  # fmt: skip
    for sink in config.sinks:
        for name in ("secret_file", "token_file"):
            if (file := getattr(sink, name)) is not None:
                secrets.append((f"{name} of {sink.name}", file))
    secrets += [(f"token_file of {p.url}", p.token_file) for p in config.polls if p.token_file]
    for door in (config.mllp, config.http):
        if door is not None and door.tls is not None:
            secrets.append(("tls key", door.tls.key))
    secrets += [("tls key of a client", t.key) for _, t in _shown(config) if t.key is not None]
    for what, file in secrets:
        try:
            mode = Path(file).stat().st_mode
            Path(file).read_bytes()
        except OSError as error:
            yield Finding(what, "wrong", f"{error.strerror}: {file}")
            continue
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield Finding(what, "warning", f"everybody can read {file}")
    for client in config.cds.clients:
        try:
            json.loads(Path(client.jwks_file).read_text("utf-8"))["keys"]
        except (OSError, ValueError, KeyError, TypeError):
            yield Finding("cds client", "wrong", f"no keys in {client.jwks_file}")


# -------------------------------------------------- the sample of a feed


def read_sample(config: Config, file: str | Path) -> Sample:
    """Reads a file of a feed as the doors would.

    Args:
        config: with its sites and codes.
        file: HL7 v2 messages; or FHIR resources and bundles, one, or one a line.

    Raises:
        DataError: it cannot be read or holds no message.
    """
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"the sample cannot be read: {error}", file=str(file)) from None
    intake, out = Intake(config), Sample()
    if data.lstrip()[:1] in (b"{", b"["):
        for resource in _resources(data, str(file)):
            site = next(iter(config.sites), "fhir")
            kind = str(resource.get("resourceType"))
            out.messages[kind] += 1
            try:
                records = intake.fhir_reader(site).read(resource)
            except FhirError as error:
                out.refused[error.problem] += 1
                continue
            _count(out, intake, records)
        return out
    now = time.time()
    for part in split_messages(data):
        try:
            message = Message.from_bytes(part)
            out.messages["^".join(message.kind)] += 1
            # As the door does it: what it refuses is refused here.
            intake.hl7(message, part, now)
            reader, _ = intake._reader(message.sender[1])
            records = reader.read(message, received=now)
        except Hl7Error as error:
            out.refused[f"{error.problem} ({error.where})" if error.where else error.problem] += 1
            continue
        _count(out, intake, records)
    if not out.messages and not out.refused:
        raise DataError("the sample holds no message", file=str(file))
    return out


def _resources(data: bytes, file: str) -> list[dict[str, Any]]:
    try:
        told = json.loads(data)
        found = told if isinstance(told, list) else [told]
    except ValueError:
        try:
            found = [json.loads(line) for line in data.splitlines() if line.strip()]
        except ValueError:
            raise DataError("the sample is neither HL7 nor JSON", file=file) from None
    return [one for one in found if isinstance(one, dict)]


def _count(out: Sample, intake: Intake, records: Iterable[Record]) -> None:
    for record in records:
        if isinstance(record, VisitChange):
            out.visits += 1
        elif isinstance(record, Refusal):
            out.unknown[record.reason, record.system, record.code] += 1
        elif isinstance(record, OrderChange):
            _, normaliser = intake.of_site(record.site)
            meaning = normaliser.treatments(record.codes)
            if meaning is not None:
                out.treatments[meaning] += 1
            elif record.kind == "treatment" and record.codes:
                out.drugs[record.codes[0]] += 1
        elif isinstance(record, Measurement):
            _, normaliser = intake.of_site(record.site)
            events, aside = events_of([record], normaliser)
            for event in events:
                for _, item in event.items:
                    out.channels[item[1]] += 1
            for refused in aside:
                if refused.reason == "unknown_unit":
                    out.units[refused.system, refused.code, refused.unit] += 1
                else:
                    out.unknown[refused.reason, refused.system, refused.code] += 1


def coverage(sample: Sample, wanted: Iterable[str]) -> Iterator[Finding]:
    """What a model would miss of a feed.

    Args:
        sample: of the feed.
        wanted: channels that the model takes.
    """
    names = list(wanted)
    missing = [n for n in names if not sample.channels[n]]
    known, lost = sum(sample.channels.values()), sum(sample.unknown.values())
    lost += sum(sample.units.values())
    total = sum(sample.messages.values())
    refused = sum(sample.refused.values())
    yield Finding("messages", "warning" if refused else "ok",
                  f"{total:,} read, {refused:,} refused whole")  # fmt: skip
    share = lost / max(known + lost, 1)
    state: State = "ok" if share < _LEAST_SHARE else ("wrong" if not known else "warning")
    yield Finding("results", state, f"{known:,} known, {lost:,} ({share:.1%}) would be set aside")
    if missing:
        told = ", ".join(missing)
        yield Finding("channels", "wrong" if len(missing) == len(names) else "warning",
                      f"{len(missing)} of {len(names)} are never there: {told}")  # fmt: skip
    else:
        yield Finding("channels", "ok", f"all {len(names)} are there")
    if not sample.visits:
        yield Finding("visits", "warning", "no admission: units, ages and ends are not known")
    if not sample.treatments:
        text = "no antibiotic and no sepsis is known: nothing will quiet alarms"
        if sample.drugs:
            text += f"; {sum(sample.drugs.values()):,} drugs have codes that say nothing"
        yield Finding("treatments", "warning", text)
    else:
        told = ", ".join(f"{n:,} {name}" for name, n in sample.treatments.most_common())
        yield Finding("treatments", "ok", told)


def channels_of(config: Config, runs: Iterable[str | Path]) -> Mapping[str, list[str]]:
    """Version -> channels that it takes."""
    from foretell.serving.deployment import Deployment
    from foretell.serving.worker.scorer import PARTS

    found = {}
    for folder in runs:
        held = Deployment.load(folder)
        found[held.version] = [v.name for v in held.gate.schema.variables]
    return found or {config.model.rule: list(PARTS[config.model.rule])}
