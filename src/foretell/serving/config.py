"""What a service is told by its TOML file; a key that is not known is an error."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from foretell.errors import ParameterError
from foretell.serving.site_config import SiteConfig, Table

Port = Annotated[int, Field(ge=0, le=65535)]
Url = Annotated[str, Field(pattern="^https?://")]
ROLES: dict[str, tuple[str, ...]] = {
    "viewer": ("read",),
    "clinician": ("read", "act"),
    "auditor": ("audit",),
    "admin": ("admin",),
}
SCOPES = ("read", "act", "ingest", "audit", "admin", "subscribe")


class TlsConfig(Table):
    """Certificate and key files; ``client_ca`` asks clients for a certificate of that authority."""

    certificate: str
    key: str
    client_ca: str | None = None


class ClientTlsConfig(Table):
    """Where the service connects: whom it believes, and how it shows itself.

    ``ca`` are authorities, those of the system by default; ``certificate`` and ``key`` are for
    who asks for one.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    @model_validator(mode="after")
    def _pair(self) -> ClientTlsConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate needs its key, and a key its certificate")
        return self


class ServiceConfig(Table):
    """Where things are kept, how time passes, and what holds under load.

    A worker whose events wait for ``overload_lag_seconds`` lets recomputation wait and takes the
    partitions with the most urgent stays first, but leaves none aside for longer than
    ``overload_patience_seconds``.
    """

    store: str = "foretell.db"
    partitions: Annotated[int, Field(ge=1, le=1024)] = 16
    clock: Literal["wall", "external"] = "wall"
    tick_seconds: Annotated[float, Field(gt=0, le=600)] = 5.0
    watermark_hours: Annotated[int, Field(ge=1, le=24)] = 2
    idle_hours: Annotated[int, Field(ge=1, le=24 * 60)] = 72
    lease_seconds: Annotated[float, Field(ge=0.5, le=60)] = 3.0
    pseudonym_key: str | None = None
    queue: Annotated[int, Field(ge=16, le=1_000_000)] = 2048
    group: Annotated[int, Field(ge=1, le=4096)] = 256
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = 20.0
    log: Literal["text", "json"] = "text"
    overload_lag_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    overload_patience_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0


class ModelConfig(Table):
    """The scorers in the order of preference; ``version`` pins the model that may speak first."""

    version: str | None = None
    rule: Literal["news2", "sirs", "qsofa"] = "news2"
    fallbacks: tuple[Literal["news2", "sirs", "qsofa"], ...] = ("sirs",)


class AlarmConfig(Table):
    """The policy of alarms; ``units`` are thresholds by tier and unit, also of a run's policy."""

    units: dict[str, dict[str, float]] = Field(default_factory=dict)
    persistence: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=62)]] = (1, 1)
    rise: Annotated[float, Field(gt=0, le=1)] | None = None
    max_alarms: Annotated[int, Field(ge=1)] | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.35
    snooze_hours: Annotated[int, Field(ge=0, le=72)] = 6
    tier: str = "urgent"
    longest_silence_hours: Annotated[int, Field(ge=1, le=72)] = 24


class QuietConfig(Table):
    """For how long treatment silences alarms; None takes the policy's hours, 0 is none."""

    antibiotics_hours: Annotated[int, Field(ge=0, le=72)] | None = None
    sepsis_hours: Annotated[int, Field(ge=0, le=72)] | None = None
    new_course_hours: Annotated[int, Field(ge=0, le=336)] = 48
    orders: bool = False


class SensingConfig(Table):
    """What is worth measuring: ``panels`` is the file of what can be ordered at all sites.

    A path is relative to the folder of the configuration's file.
    """

    panels: Annotated[str, Field(min_length=1)] | None = None


class RolloutConfig(Table):
    """A model on trial: the folder of its run, and what it may do."""

    candidate: str | None = None
    mode: Literal["off", "shadow", "canary"] = "shadow"
    units: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> RolloutConfig:
        if self.candidate is not None and self.mode == "canary" and not (self.units or self.sites):
            raise ValueError("a canary needs units or sites in which it speaks")
        return self


class DriftConfig(Table):
    """How often the last hours of each site are compared with what the model was validated on.

    The last ``hours`` are compared by blocks of the monitor's hours (12), of which at most
    ``most_blocks`` are read. 0 minutes is never.
    """

    hours: Annotated[int, Field(ge=12, le=24 * 31)] = 24
    every_minutes: Annotated[float, Field(ge=0, le=24 * 60)] = 60.0
    most_blocks: Annotated[int, Field(ge=50, le=100_000)] = 1000


class RetentionConfig(Table):
    """How long what was sent is kept, and where the daily anchors of the records go."""

    years: Annotated[float, Field(gt=0, le=100)] = 6.0
    anchors: str | None = None


class AccessConfig(Table):
    """What holds for all tokens."""

    break_glass_minutes: Annotated[int, Field(ge=1, le=24 * 60)] = 60


class MllpConfig(Table):
    """The door for HL7 v2."""

    host: str = "127.0.0.1"
    port: Port = 2575
    max_bytes: Annotated[int, Field(ge=1024, le=64 << 20)] = 1 << 20
    connections: Annotated[int, Field(ge=1, le=10_000)] = 200
    frame_seconds: Annotated[float, Field(gt=0, le=3600)] = 60.0
    processing_ids: tuple[str, ...] = ("P",)
    tls: TlsConfig | None = None


class HttpConfig(Table):
    """The door for FHIR, REST and metrics."""

    host: str = "127.0.0.1"
    port: Port = 8080
    max_bytes: Annotated[int, Field(ge=1024, le=256 << 20)] = 8 << 20
    requests_per_minute: Annotated[int, Field(ge=1)] = 60_000
    tls: TlsConfig | None = None


class TokenConfig(Table):
    """Who may ask for what: ``sha256`` is the hash of the bearer token, never the token.

    ``roles`` stand for scopes. With ``break_glass`` the holder may read a site that is not theirs
    for a while, and has to say why.
    """

    name: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    roles: tuple[Literal["viewer", "clinician", "auditor", "admin"], ...] = ()
    scopes: tuple[Literal["read", "act", "ingest", "audit", "admin", "subscribe"], ...] = ()
    sites: tuple[str, ...] = ()
    break_glass: bool = False
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _something(self) -> TokenConfig:
        if not self.granted:
            raise ValueError("a token needs roles or scopes")
        if self.break_glass and "read" not in self.granted:
            raise ValueError("break_glass is for those who may read")
        return self

    @property
    def granted(self) -> frozenset[str]:
        """Scopes of its own and of its roles."""
        return frozenset(self.scopes).union(*(ROLES[role] for role in self.roles))


class SmartConfig(Table):
    """SMART backend services: how the service proves to a FHIR server who it is.

    ``key_file`` is a private key, PEM or JWK; the token endpoint is asked of the server where
    ``token_url`` is not told.
    """

    client_id: Annotated[str, Field(min_length=1)]
    key_file: str
    key_id: str | None = None
    algorithm: Literal["RS384", "ES384"] = "ES384"
    scope: str = "system/*.read"
    token_url: Url | None = None


class SubscribeConfig(Table):
    """A subscription that is made at a FHIR server: ``endpoint`` is where it reaches us.

    ``criteria`` is the canonical address of a topic, or a search as of R4; ``token_file`` holds
    the token that the server shall show to us.
    """

    criteria: Annotated[str, Field(min_length=1)]
    filters: tuple[str, ...] = ()
    endpoint: Url
    content: Literal["empty", "id-only", "full-resource"] = "full-resource"
    heartbeat_seconds: Annotated[int, Field(ge=1, le=86400)] | None = 60
    token_file: str | None = None
    reason: str = "Early warning of sepsis"


class PollConfig(Table):
    """A FHIR server that is asked for what changed.

    With ``warm_up`` a bulk export of what changed in ``warm_up_hours`` is taken before the first
    round; while it lasts, at most for ``hold_seconds``, no hour is closed. Its files are read from
    this server, or from ``file_servers``.
    """

    site: str
    url: Url
    smart: SmartConfig | None = None
    subscribe: SubscribeConfig | None = None
    warm_up: bool = False
    export: Annotated[str, Field(pattern=r"^([A-Za-z0-9/.\-]+/)?\$export$")] = "$export"
    hold_seconds: Annotated[float, Field(ge=0, le=24 * 3600)] = 900.0
    warm_up_hours: Annotated[float, Field(gt=0)] = 168.0
    file_servers: tuple[Url, ...] = ()
    resources: tuple[str, ...] = ("Observation", "Encounter", "Patient")
    every_seconds: Annotated[float, Field(gt=0)] = 60.0
    overlap_seconds: Annotated[float, Field(ge=0)] = 300.0
    page: Annotated[int, Field(ge=1, le=1000)] = 200
    token_file: str | None = None
    tls: ClientTlsConfig | None = None

    @model_validator(mode="after")
    def _one_proof(self) -> PollConfig:
        if self.smart is not None and self.token_file is not None:
            raise ValueError("a poll has a token_file or smart, not both")
        return self


class SinkConfig(Table):
    """Where the outbox goes; with ``tls`` also device data are encrypted."""

    name: str
    kind: Literal["webhook", "mllp", "fhir"]
    url: Annotated[str, Field(pattern="^https?://")] | None = None
    host: str | None = None
    port: Port | None = None
    kinds: tuple[Literal["alarm", "correction", "score", "action"], ...] = ("alarm", "correction")
    secret_file: str | None = None
    token_file: str | None = None
    tls: ClientTlsConfig | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    attempts: Annotated[int, Field(ge=1, le=1000)] = 30
    longest_pause_seconds: Annotated[float, Field(gt=0)] = 300.0

    @model_validator(mode="after")
    def _whole(self) -> SinkConfig:
        if self.kind in ("webhook", "fhir") and self.url is None:
            raise ValueError(f"a {self.kind} sink needs a url")
        if self.kind == "mllp" and (self.host is None or self.port is None):
            raise ValueError("an mllp sink needs host and port")
        return self


class CdsClientConfig(Table):
    """An electronic record that may call hooks; ``jwks_file`` holds its public keys.

    Its tokens name ``audience``, or the address of the service that they are for below it.
    """

    issuer: str
    audience: str
    jwks_file: str
    algorithms: tuple[str, ...] = ("ES384", "RS384")
    sites: tuple[str, ...] = ()


class CdsConfig(Table):
    """CDS Hooks: who may call, and which FHIR servers may be asked for data that are missing."""

    clients: tuple[CdsClientConfig, ...] = ()
    fhir_servers: tuple[Annotated[str, Field(pattern="^https?://")], ...] = ()
    board: Url | None = None
    smart_app: Url | None = None


class SubscriptionsConfig(Table):
    """Subscriptions of others: ``endpoints`` are the only addresses that are ever notified.

    ``base`` is the address of our FHIR interface in references, such as
    ``https://foretell.example/fhir``.
    """

    endpoints: tuple[Url, ...] = ()
    base: Url | None = None
    attempts: Annotated[int, Field(ge=1, le=1000)] = 30
    longest_pause_seconds: Annotated[float, Field(gt=0)] = 300.0
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    most: Annotated[int, Field(ge=1, le=10_000)] = 100
    keep: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    shortest_heartbeat_seconds: Annotated[int, Field(ge=1)] = 10


class Config(Table):
    """All of it."""

    service: ServiceConfig = ServiceConfig()
    model: ModelConfig = ModelConfig()
    alarms: AlarmConfig = AlarmConfig()
    quiet: QuietConfig = QuietConfig()
    sensing: SensingConfig = SensingConfig()
    rollout: RolloutConfig = RolloutConfig()
    drift: DriftConfig = DriftConfig()
    retention: RetentionConfig = RetentionConfig()
    access: AccessConfig = AccessConfig()
    mllp: MllpConfig | None = MllpConfig()
    http: HttpConfig | None = HttpConfig()
    sites: dict[str, SiteConfig] = Field(default_factory=dict)
    tokens: tuple[TokenConfig, ...] = ()
    polls: tuple[PollConfig, ...] = ()
    sinks: tuple[SinkConfig, ...] = ()
    cds: CdsConfig = CdsConfig()
    subscriptions: SubscriptionsConfig = SubscriptionsConfig()

    @model_validator(mode="after")
    def _fits(self) -> Config:
        owners: dict[str, str] = {}
        for name, site in self.sites.items():
            for facility in site.facilities:
                other = owners.setdefault(facility, name)
                if other != name:
                    raise ValueError(f"facility {facility!r} belongs to {other} and {name}")
        for poll in self.polls:
            if poll.site not in self.sites:
                raise ValueError(f"polls names site {poll.site!r}, which is not among the sites")
        for what in (self.tokens, self.sinks):
            names = [entry.name for entry in what]
            if len(set(names)) != len(names):
                raise ValueError("two tokens or two sinks have the same name")
        return self

    def longest_silence(self, site: str | None = None) -> int:
        """Hours for which somebody may silence a stay of a site at once."""
        own = None if site is None or site not in self.sites else (
            self.sites[site].alarms.longest_silence_hours
        )  # fmt: skip
        return self.alarms.longest_silence_hours if own is None else own

    @property
    def retention_years(self) -> dict[str, float]:
        """Site -> years for which its patients are kept, where they are others than of all."""
        found = {name: site.retention_years for name, site in self.sites.items()}
        return {name: years for name, years in found.items() if years is not None}

    @property
    def patient_systems(self) -> dict[str, str]:
        """Site -> system of the identifiers by which its patients are known, if they are."""
        told = {name: site.identifier_systems for name, site in self.sites.items()}
        return {name: systems[0] for name, systems in told.items() if systems}

    @property
    def pins(self) -> dict[str, str]:
        """Site -> version of the model that alone may speak there."""
        found = {name: site.model_version for name, site in self.sites.items()}
        return {name: version for name, version in found.items() if version is not None}


def config_schema() -> dict[str, Any]:
    """The JSON schema of a configuration, for editors and whoever checks one elsewhere."""
    told = Config.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **told,
        "title": "Configuration of foretell serve",
    }


def _plain(message: str) -> str:
    """A refusal in the words of TOML."""
    return message.removeprefix("Value error, ").replace("a valid tuple", "a list")


def read_config(source: str | Path | dict[str, Any]) -> Config:
    """The configuration of a TOML file, or of its tables; ``sensing.panels`` beside the file.

    Raises:
        ParameterError: it cannot be read, a key is unknown or a value is wrong.
    """
    table: dict[str, Any]
    if isinstance(source, dict):
        table, where = source, "the configuration"
    else:
        where = str(source)
        try:
            table = tomllib.loads(Path(source).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ParameterError(f"{where} cannot be read: {error}") from None
    try:
        config = Config.model_validate(table)
    except ValidationError as error:
        # What was given is not repeated: it may be a secret in the wrong place.
        told = [
            f"{'.'.join(map(str, e['loc'])) or 'file'}: "
            + (_known(e["loc"]) if e["type"] == "extra_forbidden" else _plain(e["msg"]))
            for e in error.errors()[:5]
        ]
        raise ParameterError(f"{where} is not right: {'; '.join(told)}") from None
    return config if isinstance(source, dict) else _beside(config, Path(source).parent)


def _beside(config: Config, folder: Path) -> Config:
    """The configuration with files of panels as they lie beside it."""

    def placed(table: Any) -> Any:
        if table.panels is None:
            return table
        return table.model_copy(update={"panels": str(folder / table.panels)})

    sites = {name: placed(site) for name, site in config.sites.items()}
    return config.model_copy(update={"sensing": placed(config.sensing), "sites": sites})


def _known(place: tuple[int | str, ...]) -> str:
    """What a key that is not known may have meant."""
    table: type[BaseModel] = Config
    for part in place[:-1]:
        field = table.model_fields.get(str(part))
        if field is not None:
            held: list[Any] = [field.annotation]
            while held and not (isinstance(held[0], type) and issubclass(held[0], BaseModel)):
                held = [*get_args(held[0]), *held[1:]]
            table = held[0] if held else table
    close = get_close_matches(str(place[-1]), list(table.model_fields), n=1)
    meant = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(table.model_fields)}"
    return f"there is no such key; {meant}"
