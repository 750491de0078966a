"""What is in `deploy/` fits the service: names of metrics and settings, ports, probes, users."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opportune_service.adapters.files.callers import read_callers
from opportune_service.adapters.metrics.catalogue import FIGURES
from opportune_service.cli.commands import COMMANDS
from opportune_service.settings import PREFIX, Settings
from ruamel.yaml import YAML
from support.server import in_loop
from support.watching import get, watched_service

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
GRPC_PORT, METRICS_PORT = 50051, 9464

_SELECTOR = re.compile(r"\b([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?")
_WORDS = frozenset(
    {"count", "histogram_quantile", "increase", "max", "min", "or", "rate", "sum", "topk", "unless"}
)
_OF_PROMETHEUS = {"up": {"job", "instance"}}
_ALWAYS = {"job", "instance", "pod", "namespace"}


def documents(path: Path) -> list[Any]:
    return [each for each in YAML(typ="safe").load_all(path) if each is not None]


def manifest(kind: str, name: str = "") -> Any:
    found = [each for path in MANIFESTS for each in documents(path) if each["kind"] == kind]
    [one] = [each for each in found if not name or each["metadata"]["name"] == name]
    return one


MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = documents(DEPLOY / "compose.yaml")[0]
SERVICE = COMPOSE["services"]["opportune"]


# -- queries ------------------------------------------------------------------------------------------


def known() -> dict[str, set[str]]:
    """Names of series -> their labels."""
    series: dict[str, set[str]] = {}
    for figure in FIGURES:
        for name in figure.series:
            series[name] = {*figure.labels, *_ALWAYS, *({"le"} if name.endswith("_bucket") else set())}
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes"):
        series[name] = set(_ALWAYS)
    return series | _OF_PROMETHEUS


def faults(query: str) -> list[str]:
    """Series and labels of a query that there are none of."""
    series = known()
    found = []
    bare = re.sub(r'"[^"]*"', '""', query)
    by = re.compile(r"\bby\s*\(([^)]*)\)")
    grouped = {name.strip() for names in by.findall(bare) for name in names.split(",")}
    bare = by.sub(" ", bare)
    bare = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", bare)
    named: set[str] = set()
    for name, selector in _SELECTOR.findall(bare):
        if name in _WORDS:
            continue
        if name not in series:
            found.append(name)
            continue
        named |= series[name]
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)
        found += [f"{name}{{{label}}}" for label in labels if label not in series[name]]
    return found + [f"by {label}" for label in grouped if label and label not in named]


def queries() -> Iterator[tuple[str, str]]:
    board = json.loads((DEPLOY / "grafana" / "opportune.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for note in board["annotations"]["list"]:
        yield note["name"], note["expr"]
    for group in documents(DEPLOY / "prometheus" / "alerts.yaml")[0]["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_every_metric_and_label_of_a_query_exists(title: str, query: str) -> None:
    assert faults(query) == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("sum(rate(opportune_event_total[5m]))", "opportune_event_total"),
        ('opportune_events_total{kind="x"}', "opportune_events_total{kind}"),
        ("sum by (kind) (opportune_events_total)", "by kind"),
        ("rate(opportune_commit_seconds[5m])", "opportune_commit_seconds"),
    ],
)
def test_control_a_query_that_asks_for_nothing_is_seen(query: str, fault: str) -> None:
    assert faults(query) == [fault]


def test_every_metric_is_looked_at_somewhere() -> None:
    asked = " ".join(query for _, query in queries())
    unseen = [each.name for each in FIGURES if not re.search(rf"\b{each.name}(_\w+)?\b", asked)]
    assert unseen == []


def test_panels_do_not_cover_each_other() -> None:
    board = json.loads((DEPLOY / "grafana" / "opportune.json").read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        left, top, wide, high = (panel["gridPos"][key] for key in "xywh")
        cells = {(x, y) for x in range(left, left + wide) for y in range(top, top + high)}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


# -- settings -----------------------------------------------------------------------------------------


def settings_of(environment: dict[str, str]) -> Settings:
    """As the service would read them; fails for a name or value that it refuses."""
    return Settings(**{name.removeprefix(PREFIX).lower(): value for name, value in environment.items()})  # type: ignore[arg-type]


def test_the_settings_of_the_composition_are_taken() -> None:
    given = {name: re.sub(r"\$\{[^}]*\}", "x", value) for name, value in SERVICE["environment"].items()}
    settings = settings_of(given)
    assert settings.listen.endswith(f":{GRPC_PORT}")
    assert settings.metrics_listen.endswith(f":{METRICS_PORT}")
    assert settings.database.startswith("postgresql://")
    assert f"@postgres/{COMPOSE['services']['postgres']['environment']['POSTGRES_DB']}" in settings.database
    assert settings.live_state.startswith("redis://redis:")
    grace = float(SERVICE["stop_grace_period"].removesuffix("s"))
    assert grace >= settings.leave_seconds + settings.drain_seconds + 20
    assert SERVICE["read_only"] is True


def test_redis_keeps_what_it_is_given() -> None:
    command = COMPOSE["services"]["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_no_password_is_in_the_composition() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert all(value.startswith("${") for value in re.findall(r"PASSWORD: (\S+)", text))


def test_the_image_sets_only_what_is_a_setting() -> None:
    given = dict(re.findall(rf"\b({PREFIX}\w+)=(\S+)", DOCKERFILE))
    assert settings_of(given).metrics_listen == f"0.0.0.0:{METRICS_PORT}"
    assert f"EXPOSE {GRPC_PORT} {METRICS_PORT}" in DOCKERFILE
    assert f"http://127.0.0.1:{METRICS_PORT}/readyz" in DOCKERFILE


# -- kubernetes ---------------------------------------------------------------------------------------


def test_the_settings_of_the_cluster_are_taken() -> None:
    [text] = manifest("ConfigMap", "opportune")["data"].values()
    settings = Settings(**tomllib.loads(text))
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [config] = [mount for mount in container["volumeMounts"] if mount["name"] == "config"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment == {f"{PREFIX}CONFIG": config["mountPath"]}
    assert settings.listen.endswith(f":{GRPC_PORT}")
    assert settings.metrics_listen.endswith(f":{METRICS_PORT}")
    assert pod["terminationGracePeriodSeconds"] >= settings.leave_seconds + settings.drain_seconds + 20
    [tls] = [mount for mount in container["volumeMounts"] if mount["name"] == "tls"]
    for file in (settings.tls_certificate, settings.tls_key, settings.tls_client_ca):
        assert str(file).startswith(tls["mountPath"])


def test_the_callers_of_the_cluster_are_in_order_and_change_in_its_pods(tmp_path: Path) -> None:
    [text] = manifest("ConfigMap", "opportune")["data"].values()
    path = Settings(**tomllib.loads(text)).callers
    assert path is not None
    listed = manifest("ConfigMap", "opportune-callers")["data"][path.name]
    (tmp_path / path.name).write_text(listed, encoding="utf-8")
    assert read_callers(tmp_path / path.name, 0).register.callers
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "callers"]
    assert mount["mountPath"] == str(path.parent)
    assert "subPath" not in mount, "it would never change"
    [volume] = [each for each in pod["volumes"] if each["name"] == "callers"]
    assert volume["configMap"]["name"] == "opportune-callers"


def test_ports_are_the_same_everywhere() -> None:
    [container] = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"grpc": GRPC_PORT, "metrics": METRICS_PORT}
    for service in documents(DEPLOY / "kubernetes" / "service.yaml"):
        [port] = service["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (GRPC_PORT, "grpc")
    rules = manifest("NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for rule in rules for port in rule["ports"]] == [GRPC_PORT, METRICS_PORT]
    scrape = documents(DEPLOY / "prometheus" / "prometheus.yaml")[0]["scrape_configs"][0]
    assert scrape["dns_sd_configs"][0]["port"] == METRICS_PORT
    assert scrape["dns_sd_configs"][0]["names"][0] in COMPOSE["services"]
    assert Settings.model_fields["listen"].default.endswith(f":{GRPC_PORT}")


def test_probes_ask_what_the_service_answers() -> None:
    [container] = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
    assert {each["port"] for each in probes.values()} == {"metrics"}
    assert probes["liveness"]["path"] != probes["readiness"]["path"]

    @in_loop
    async def body() -> None:
        async with watched_service() as (_, monitor):
            for each in probes.values():
                assert await get(monitor, each["path"]) == (200, "ok\n")

    body()


def test_nothing_runs_as_root_or_writes_to_its_image() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [user] = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert (str(pod["securityContext"]["runAsUser"]), str(pod["securityContext"]["runAsGroup"])) == user
    assert int(user[0]) > 0
    assert pod["securityContext"]["runAsNonRoot"] is True
    for each in (container, *pod["initContainers"]):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert each["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert "PYTHONDONTWRITEBYTECODE=1" in DOCKERFILE


def test_what_selects_the_pods_selects_them() -> None:
    deployment = manifest("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(each["spec"]["selector"] for each in documents(DEPLOY / "kubernetes" / "service.yaml")),
    ]
    assert all(selector.items() <= labels for selector in selectors)
    scaled = manifest("HorizontalPodAutoscaler")["spec"]
    assert scaled["scaleTargetRef"]["name"] == manifest("Deployment")["metadata"]["name"]
    assert scaled["minReplicas"] == deployment["replicas"]
    [lag] = [each["pods"]["metric"]["name"] for each in scaled["metrics"] if each["type"] == "Pods"]
    assert lag in known()


def test_every_manifest_is_applied() -> None:
    listed = documents(DEPLOY / "kubernetes" / "kustomization.yaml")[0]["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == [path.name for path in MANIFESTS]


def test_the_ledger_is_migrated_before_a_process_starts() -> None:
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    commands = [*(each["args"][0] for each in pod["initContainers"] + pod["containers"])]
    assert commands == ["migrate", "serve"]
    assert set(commands) <= set(COMMANDS)
    migrate = COMPOSE["services"]["migrate"]
    assert migrate["command"] == ["migrate"]
    assert migrate["environment"]["OPPORTUNE_DATABASE"] == SERVICE["environment"]["OPPORTUNE_DATABASE"]
    assert SERVICE["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}


def test_files_that_are_mounted_are_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]
