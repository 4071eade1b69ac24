"""Files for containers and clusters, read offline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foretell.serving.config import read_config
from foretell.serving.metrics import Metrics

yaml = pytest.importorskip("yaml")
DEPLOY = Path(__file__).parents[2] / "deploy"


def documents(name: str) -> list[dict]:
    return [d for d in yaml.safe_load_all((DEPLOY / name).read_text()) if d is not None]


def test_the_configuration_is_one_and_grants_nothing_by_a_known_token():
    config = read_config(DEPLOY / "service.toml")
    assert config.service.store.startswith("postgresql://") and config.tokens
    assert config.tokens[0].sha256 == "0" * 64


def test_the_image_runs_as_nobody_special():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    words = [line.split()[0] for line in lines if line and line[0].isupper()]
    assert words.count("FROM") == 2 and {"USER", "ENTRYPOINT", "CMD", "HEALTHCHECK"} <= set(words)
    assert all(":latest" not in line for line in lines)
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for part in line.split()[1:-1]:
                assert (DEPLOY.parent / part).exists(), part


def test_what_is_written_has_a_place_where_the_root_is_read_only():
    text = (DEPLOY / "Dockerfile").read_text()
    words = [w for line in text.splitlines() if line.startswith("ENV ") for w in line.split()[1:]]
    # Without a folder for compiled code numba refuses to load what the service scores with.
    cache = dict(word.split("=", 1) for word in words)["NUMBA_CACHE_DIR"]
    config = read_config(DEPLOY / "service.toml")
    key, anchors = config.service.pseudonym_key, config.retention.anchors
    assert key is not None and f"-o 10001 -g 10001 -m 0700 {Path(key).parent}" in text
    needed = [cache] if anchors is None else [cache, anchors]
    (told,) = documents("compose.yaml")
    for name in ("door", "worker"):
        one = told["services"][name]
        mounts = [v.split(":") for v in one["volumes"]]
        writable = [*one["tmpfs"], *(m[1] for m in mounts if m[-1] != "ro")]
        for place in (*needed, key):
            assert any(place.startswith(f"{w}/") for w in writable), (name, place)
    for one in documents("kubernetes/foretell.yaml"):
        if one["kind"] != "Deployment":
            continue
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        mounts = container["volumeMounts"]
        writable = [m["mountPath"] for m in mounts if not m.get("readOnly")]
        for place in needed:
            assert any(place.startswith(f"{w}/") for w in writable), place
        # The key is a secret of the cluster: it is there and need not be made.
        assert any(key.startswith(f"{m['mountPath']}/") for m in mounts)


def test_the_composition_fits_the_service():
    (told,) = documents("compose.yaml")
    services = told["services"]
    assert {"store", "door", "worker", "prometheus"} <= set(services)
    for name in ("door", "worker"):
        one = services[name]
        assert one["read_only"] and one["cap_drop"] == ["ALL"]
        assert one["depends_on"]["store"]["condition"] == "service_healthy"
        roles = one["command"][one["command"].index("--roles") + 1].split(",")
        assert set(roles) <= {"ingest", "worker", "dispatcher"}
    for one in services.values():
        for volume in one.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).exists()
            elif not source.startswith("$"):
                assert source in told["volumes"]


def test_the_manifests_belong_together():
    found = documents("kubernetes/foretell.yaml")
    by = {}
    for one in found:
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(one)
        by.setdefault(one["kind"], []).append(one)
    deployments = {d["metadata"]["name"]: d for d in by["Deployment"]}
    assert set(deployments) == {"foretell-door", "foretell-worker"}
    for one in deployments.values():
        spec = one["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        assert spec["replicas"] >= 2
        pod = spec["template"]["spec"]
        rules = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert rules[0]["labelSelector"]["matchLabels"].items() <= labels.items()
        assert pod["securityContext"]["runAsNonRoot"]
        (container,) = pod["containers"]
        names = {p["name"] for p in container["ports"]}
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            assert container[probe]["httpGet"]["port"] in names
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]
        mounted = {m["name"] for m in container["volumeMounts"]}
        assert mounted == {v["name"] for v in pod["volumes"]}
    for budget in by["PodDisruptionBudget"]:
        wanted = budget["spec"]["selector"]["matchLabels"]
        assert any(wanted.items() <= d["spec"]["template"]["metadata"]["labels"].items()
                   for d in deployments.values())  # fmt: skip
        assert budget["spec"]["minAvailable"] >= 1
    (scaler,) = by["HorizontalPodAutoscaler"]
    assert scaler["spec"]["scaleTargetRef"]["name"] in deployments
    assert scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"]
    (door,) = by["Service"]
    ports = {
        p["name"]
        for p in deployments["foretell-door"]["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    assert {p["targetPort"] for p in door["spec"]["ports"]} <= ports


FUNCTIONS = {"max", "min", "by", "sum", "rate", "increase", "absent", "abs", "sqrt", "on"}


def check_expression(text: str, known: dict[str, set[str]]) -> None:
    """As much of PromQL as the rules use: brackets, functions, metrics, labels, ranges."""
    plain = re.sub(r'"[^"]*"', '""', text)
    pairs = {")": "(", "}": "{", "]": "["}
    held = []
    for c in plain:
        if c in "({[":
            held.append(c)
        elif c in pairs:
            assert held and held.pop() == pairs[c], text
    assert not held, text
    for window in re.findall(r"\[([^\]]*)\]", plain):
        assert re.fullmatch(r"\d+[smhdw]", window), window
    for name in re.findall(r"([a-z_]+)\s*\(", plain):
        assert name in FUNCTIONS | {"and", "or", "unless"}, name
    for name, labels in re.findall(r"\b(foretell_\w+|up)\b(\{[^}]*\})?", plain):
        assert name in known, f"there is no metric {name}"
        for label in re.findall(r"(\w+)\s*[=!]~?", labels):
            assert label in known[name] | {"job", "instance"}, label


def test_alert_rules_ask_for_metrics_that_there_are():
    known: dict[str, set[str]] = {"up": set()}
    for metric, found in Metrics(drift_seconds=60.0).registry._collector_to_names.items():
        known |= {name: set(metric._labelnames) for name in found}
    (told,) = documents("prometheus/alerts.yml")
    names = []
    for group in told["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                # Known from here on: the rules of a group are evaluated one after the other.
                assert set(rule) == {"record", "expr"}
                check_expression(rule["expr"], known)
                known[rule["record"].rpartition(":")[2]] = {"site"}
                continue
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert rule["annotations"]["summary"] and rule["annotations"]["description"]
            assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1m"))
            check_expression(rule["expr"], known)
            names.append(rule["alert"])
            for name in re.findall(r"\bforetell_\w+", rule["annotations"]["description"]):
                assert name in known, f"{rule['alert']} points to {name}"
    assert len(set(names)) == len(names)
    wanted = {"ForetellFeedSilent", "ForetellLag", "ForetellOutboxOld", "ForetellAbstainsMore",
              "ForetellAlarmRate", "ForetellHeartbeatMissing"}  # fmt: skip
    assert wanted <= set(names)
    (scrape,) = documents("prometheus/prometheus.yml")
    assert scrape["rule_files"] == ["alerts.yml"]
    (job,) = scrape["scrape_configs"]
    assert "static_configs" not in job, "of several replicas under one name only one is read"
    (found,) = job["dns_sd_configs"]
    assert set(found["names"]) <= set(documents("compose.yaml")[0]["services"])
    assert (found["type"], found["port"]) == ("A", read_config(DEPLOY / "service.toml").http.port)
    with pytest.raises(AssertionError, match="no metric"):
        check_expression("max(foretell_nothing) > 1", known)


def test_how_old_the_news_of_a_site_may_be_can_be_told_of_each():
    text = (DEPLOY / "prometheus/alerts.yml").read_text()
    limit = "site:foretell_watermark_lag_limit_seconds"
    known = {"foretell_watermark_lag_seconds": {"site"}, limit.rpartition(":")[2]: {"site"}}
    rules = [r for g in yaml.safe_load(text)["groups"] for r in g["rules"]]
    order = [r.get("record") or r["alert"] for r in rules]
    assert order.index(limit) + 1 == order.index("ForetellWatermarkLag")
    alert = rules[order.index("ForetellWatermarkLag")]
    assert limit in alert["expr"] and not re.search(r"\d{3,}", alert["expr"])
    assert limit in alert["annotations"]["description"]
    # The line that the comment offers, put where it says.
    lines = text.splitlines()
    (offered,) = [n for n in lines if n.lstrip().startswith("#   (0 * max by (site)")]
    default = next(i for i, n in enumerate(lines) if n.strip().startswith("(0 * max by (site)"))
    lines.insert(default, " " * 10 + offered.lstrip(" #"))
    changed = yaml.safe_load("\n".join(lines))
    (rule,) = [r for g in changed["groups"] for r in g["rules"] if r.get("record") == limit]
    check_expression(rule["expr"], known)
    parts = rule["expr"].split(" or ")
    assert [re.search(r"\+ (\d+)\)$", part).group(1) for part in parts] == ["14400", "7200"]
    assert 'site="west"' in parts[0] and "{" not in parts[1]
