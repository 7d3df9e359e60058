"""The files of deploy/, read by what knows their formats, and against each other."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from dagster._cli import cli as dagster_cli
from dagster._core.instance.config import dagster_instance_config
from dagster._core.test_utils import create_run_for_test
from packaging.version import Version

import propel_assets
from propel_assets import PropelAuthConfig, build_definitions
from propel_assets.settings import variable_to_set
from propel_assets.webhooks.app import MAX_BODY, MAX_CONNECTIONS
from propel_assets_tests.processes import ROOT
from propel_assets_tests.test_docs import parsed

DEPLOY = ROOT / "deploy"
DEFAULT = re.compile(r"\$\{\w+:-([^}$]*)\}")  # of a variable, which Compose replaces before it reads the file
COMPOSE = yaml.safe_load(DEFAULT.sub(r"\1", (DEPLOY / "compose.yaml").read_text()))
COMPOSE_ENVIRONMENTS = yaml.safe_load((DEPLOY / "compose.environments.yaml").read_text())
HELM = yaml.safe_load((DEPLOY / "helm-values.yaml").read_text())
HELM_ENVIRONMENTS = yaml.safe_load((DEPLOY / "helm-environments.yaml").read_text())
DEPLOYMENTS = [
    deployment
    for values in (HELM, HELM_ENVIRONMENTS)
    for deployment in values["dagster-user-deployments"]["deployments"]
]
WEBHOOKS = yaml.safe_load((DEPLOY / "helm-webhooks.yaml").read_text())["extraManifests"]
WEBHOOKS_ENVIRONMENTS = yaml.safe_load((DEPLOY / "helm-webhooks-environments.yaml").read_text())["extraManifests"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
INSTANCE = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
OUR_SETTINGS = yaml.safe_load((Path(propel_assets.__file__).parent / "cli" / "dagster.yaml").read_text())


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    said = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


def test_everything_the_image_copies_is_sent_to_the_builder() -> None:
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
        assert Path(path).parts[0] in sent


def test_the_lock_has_every_version_that_was_tested_and_its_hash() -> None:
    first, *lines = (DEPLOY / "requirements.txt").read_text().splitlines()
    (python,) = set(re.findall(r"^FROM python:(3\.\d+)-", DOCKERFILE, re.MULTILINE))
    assert f"Python {python} on Linux x86_64" in first
    locked = [re.findall(r"^(\S+==\S+) --hash=sha256:[0-9a-f]{64}$", line) for line in lines]
    assert all(locked)
    pins = {_normal(pin) for (pin,) in locked}
    assert pins - {_normal(line) for line in (ROOT / "constraints.txt").read_text().splitlines()} == set()
    names = {pin.split("==")[0] for pin in pins}
    extras = {"dagster-postgres", "dagster-celery", "dagster-k8s", "psycopg2-binary", "svix", "apprise"}
    assert {"dagster", "dlt"} | extras <= names


def _normal(pin: str) -> str:
    return pin.lower().replace("_", "-")


def test_the_lowest_versions_are_those_of_the_project() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints-lowest.txt").read_text().splitlines() if "==" in line)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lowest = r"^(dagster|dagster-webserver|dagster-dlt|dlt|duckdb)(?:\[\w+\])?>=([\d.]+)"
    least = dict(re.findall(lowest, "\n".join(needed), re.MULTILINE))
    assert len(least) == 5
    assert {name: Version(pins[name]) for name in least} == {name: Version(least[name]) for name in least}


def test_compose_reads_its_file() -> None:
    services = COMPOSE["services"]
    parsed = PyCompose.from_yaml(yaml.safe_dump({key: value for key, value in COMPOSE.items() if key[:2] != "x-"}))
    names = {"dagster_database", "code_server", "webserver", "daemon", "webhooks"}
    assert set(parsed.services or ()) == set(services) == names
    # The keys go to the one that uses them, and the page is not open to the network.
    assert [name for name, service in services.items() if "env_file" in service] == ["code_server"]
    assert all("PROPELAUTH_API_KEY" not in service["environment"] for service in services.values())
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:3000:3000", "127.0.0.1:8401:8401"]
    with_secret = [name for name, service in services.items() if "PROPELAUTH_WEBHOOK_SECRET" in service["environment"]]
    assert with_secret == [name for name, service in services.items() if "profiles" in service] == ["webhooks"]
    loads, receives = (
        services[name]["environment"]["PROPELAUTH_WEBHOOK_STORE"] for name in ("code_server", "webhooks")
    )
    # Without a secret there is no receiver: another store than one of your own would have checks wait for its webhooks.
    own, default = "${PROPELAUTH_WEBHOOK_STORE:-", receives.replace(":?set it in deploy/.env", "")
    assert receives.startswith(own)
    assert loads == f"{own}${{PROPELAUTH_WEBHOOK_SECRET:+{default.removeprefix(own).removesuffix('}')}}}}}"


def test_compose_has_a_code_server_for_each_environment() -> None:
    services = COMPOSE_ENVIRONMENTS["services"]
    # `extends` takes over what the service of the other file has.
    assert services["code_server_staging"].pop("extends") == {"file": "compose.yaml", "service": "code_server"}
    assert PyCompose.from_yaml(yaml.safe_dump(COMPOSE_ENVIRONMENTS)).services
    found = {name: service["command"][-4:] for name, service in services.items() if "command" in service}
    assert found == {
        "code_server": ["-m", "propel_assets.environments", "-a", "production"],
        "code_server_staging": ["-m", "propel_assets.environments", "-a", "staging"],
    }
    workspace = yaml.safe_load((DEPLOY / "workspace.environments.yaml").read_text())
    servers = [server["grpc_server"] for server in workspace["load_from"]]
    assert {s["host"]: s["location_name"] for s in servers} == {name: words[-1] for name, words in found.items()}
    assert len({services[name]["environment"]["DESTINATION__DUCKDB__CREDENTIALS"] for name in found}) == 2
    for name in ("webserver", "daemon"):
        assert services[name]["volumes"] == ["./workspace.environments.yaml:/opt/dagster/workspace.yaml:ro"]


def test_a_deployment_queues_runs_as_the_settings_we_ship_do() -> None:
    settings, _ = dagster_instance_config(str(DEPLOY))
    assert settings["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    assert {name: value for name, value in INSTANCE.items() if name != "storage"} == OUR_SETTINGS
    pools = INSTANCE["concurrency"]["pools"]
    assert HELM["concurrency"] == {
        "enabled": True,
        "pools": {"defaultLimit": pools["default_limit"], "granularity": pools["granularity"]},
    }
    assert HELM["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"
    assert _snake_case(HELM["retention"]) == {"enabled": True, **INSTANCE["retention"]}
    monitoring = HELM["dagsterDaemon"]["runMonitoring"]
    assert monitoring["maxRuntimeSeconds"] == INSTANCE["run_monitoring"]["max_runtime_seconds"]


def _snake_case(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {re.sub(r"(?=[A-Z])", "_", name).lower(): _snake_case(value) for name, value in values.items()}


def test_ticks_are_deleted_and_logs_of_containers_are_limited() -> None:
    assert set(INSTANCE["retention"]) == {"schedule", "sensor"}
    assert all(service["logging"]["options"]["max-size"] for service in COMPOSE["services"].values())


def test_the_database_of_the_chart_has_no_default_password() -> None:
    assert HELM["generatePostgresqlPasswordSecret"] is False
    assert HELM["global"]["postgresqlSecretName"] == HELM["postgresql"]["existingSecret"]
    assert HELM["postgresql"]["existingSecret"] in (ROOT / "docs" / "production.md").read_text()
    assert "postgresqlPassword" not in HELM["postgresql"]


def test_the_environments_of_helm_differ_only_in_names() -> None:
    [single, *several] = DEPLOYMENTS
    for deployment, name in zip(several, ("production", "staging"), strict=True):
        assert deployment["name"] == f"{single['name']}-{name}"
        assert deployment["dagsterApiGrpcArgs"] == ["-m", "propel_assets.environments", "-a", name]
        assert deployment["envSecrets"] == [{"name": f"propelauth-{name}"}]
        differing = {"name", "dagsterApiGrpcArgs", "envSecrets"}
        assert {key: value for key, value in deployment.items() if key not in differing} == {
            key: value for key, value in single.items() if key not in differing
        }


def test_an_image_has_the_tag_of_this_version() -> None:
    receivers = [m for m in (*WEBHOOKS, *WEBHOOKS_ENVIRONMENTS) if m["kind"] == "Deployment"]
    containers = [c for m in receivers for c in m["spec"]["template"]["spec"]["containers"]]
    images = [f"{deployment['image']['repository']}:{deployment['image']['tag']}" for deployment in DEPLOYMENTS]
    images += [service["image"] for service in COMPOSE["services"].values() if "build" in service]
    assert {*images, *(container["image"] for container in containers)} == {
        f"propel-assets:{propel_assets.__version__}"
    }


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_the_pod_of_the_helm_values_is_one_that_kubernetes_accepts(deployment) -> None:
    container = {
        "name": deployment["name"],
        "image": "{repository}:{tag}".format(**deployment["image"]),
        "imagePullPolicy": deployment["image"]["pullPolicy"],
        "args": ["dagster", "api", "grpc", *deployment["dagsterApiGrpcArgs"]],
        "ports": [{"containerPort": deployment["port"]}],
        "env": deployment["env"],
        "envFrom": [{"secretRef": secret} for secret in deployment["envSecrets"]],
        "resources": deployment["resources"],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "code"}, "spec": {"containers": [container]}}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    assert "KEY" not in str(deployment["env"])


def test_each_environment_has_the_receiver_of_one_with_a_secret_of_its_own() -> None:
    for manifest in WEBHOOKS_ENVIRONMENTS:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    for number, name in enumerate(("production", "staging")):
        manifests = WEBHOOKS_ENVIRONMENTS[2 * number : 2 * number + 2]
        (container,) = manifests[0]["spec"]["template"]["spec"]["containers"]
        assert container.pop("env") == [{"name": "PROPELAUTH_ENVIRONMENT", "value": name}]
        renamed = re.sub(r"(propel-assets-webhooks|propelauth-webhooks)\b", rf"\1-{name}", yaml.safe_dump(WEBHOOKS))
        assert manifests == yaml.safe_load(renamed)
    page = (ROOT / "docs" / "environments.md").read_text()
    for name in ("production", "staging"):
        assert f"kubectl create secret generic propelauth-webhooks-{name} --from-env-file" in page
        for setting in ("webhook_secret", "webhook_store"):
            assert f"`{variable_to_set(setting, name)}`" in page
    rules = yaml.safe_load(re.findall(r"```yaml\n(rules:.*?)```", page, re.DOTALL)[0])["rules"]
    routed = [path["backend"]["service"] for rule in rules for path in rule["http"]["paths"]]
    services = [m for m in WEBHOOKS_ENVIRONMENTS if m["kind"] == "Service"]
    assert routed == [
        {"name": m["metadata"]["name"], "port": {"number": m["spec"]["ports"][0]["port"]}} for m in services
    ]


def test_the_manifests_of_the_receiver_are_ones_that_kubernetes_accepts() -> None:
    deployment, service = WEBHOOKS
    for manifest in WEBHOOKS:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert (
        service["spec"]["selector"] == template["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    )
    (served,), (port,) = container["ports"], service["spec"]["ports"]
    assert served["name"] == port["targetPort"] == container["readinessProbe"]["httpGet"]["port"]
    assert container["livenessProbe"]["tcpSocket"]["port"] == served["name"]
    assert str(served["containerPort"]) in container["command"]
    assert container["command"] == COMPOSE["services"]["webhooks"]["command"]
    assert "env" not in container


def test_the_chart_renders_the_receiver_as_it_is_written() -> None:
    # The chart passes each of `extraManifests` through `tpl`, and merges values files by their top-level keys.
    assert "extraManifests" not in HELM | HELM_ENVIRONMENTS
    for file in ("helm-webhooks.yaml", "helm-webhooks-environments.yaml"):
        text = (DEPLOY / file).read_text()
        assert set(yaml.safe_load(text)) == {"extraManifests"}
        assert "{{" not in text


def test_the_receiver_runs_without_privileges_and_within_its_memory() -> None:
    pod = WEBHOOKS[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(re.findall(r"^USER (\d+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[0]),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert 2 * MAX_CONNECTIONS * MAX_BODY <= 2**30


PAGES = [(page.name, page.read_text()) for page in sorted((ROOT / "docs").glob("*.md"))]
THEIRS = "your-project"
"""The deployment of docs/embedding.md."""
CONTAINERS = {
    "dagster-dagster-webserver": "/dagster-workspace/workspace.yaml",
    "code_server": "",
    "code_server_staging": "",
    "webserver": "/opt/dagster/workspace.yaml",
    **{f"dagster-dagster-user-deployments-{deployment['name']}": "" for deployment in DEPLOYMENTS},
}
"""The workspace that a container has, by the name of the container or deployment."""
IN_CONTAINERS = sorted(
    {
        (name, container, command)
        for name, text in PAGES
        for container, command in re.findall(
            r"^ *(?:kubectl exec deployment/|docker compose .*exec (?:-T )?)(\S+) (?:-- )?(.+)$", text, re.MULTILINE
        )
        if command.count('"') % 2 == 0  # a script of several lines has a test of its own
    }
)


@functools.cache
def definitions_of(environment: str) -> dg.Definitions:
    return build_definitions(PropelAuthConfig(environment=environment))


@pytest.mark.parametrize(("page", "container", "command"), IN_CONTAINERS)
def test_a_command_in_a_container_names_what_the_container_has(page, container, command) -> None:
    if container == "dagster_database":
        assert command.startswith(("pg_dump", "pg_restore"))
        return
    workspace = CONTAINERS[container]
    words = shlex.split(command)
    if words[:2] == ["sh", "-c"]:
        words = shlex.split(words[2].split(" >&2")[0])
    if words[0] == "propel-assets":
        parsed(shlex.join(words))
    if words[0] != "dagster":
        return
    dagster_cli.make_context("dagster", words[1:2], resilient_parsing=True)
    if workspace and "concurrency" not in words:
        assert words[words.index("-w") + 1] == workspace
        location = words[words.index("--location") + 1] if "--location" in words else ""
        assert location in {"", "staging", THEIRS, *(deployment["name"] for deployment in DEPLOYMENTS)}
        environment = location.removeprefix(THEIRS).removeprefix("propel-assets").removeprefix("-")
        definitions = definitions_of(environment)
        named = {"schedule": definitions.schedules, "sensor": definitions.sensors, "job": definitions.jobs}[words[1]]
        assert words[-1] in {found.name for found in named or ()}


def test_pages_have_commands_in_containers_of_compose_and_kubernetes() -> None:
    assert len(IN_CONTAINERS) >= 20


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(block, id=name)
        for name, text in PAGES
        for block in re.findall(r"^```yaml\n(apiVersion:.*?)^```", text, re.MULTILINE | re.DOTALL)
    ],
)
def test_a_manifest_in_the_documentation_is_one_that_kubernetes_accepts(manifest) -> None:
    parsed_manifest = yaml.safe_load(manifest)
    kubernetes_validate.validate(parsed_manifest, kubernetes_validate.latest_version(), strict=True)
    (container,) = parsed_manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    parsed(shlex.join(container["command"]))
    assert container["env"] == [entry for entry in DEPLOYMENTS[0]["env"] if entry["name"] == "PROPELAUTH_DESTINATION"]
    assert container["envFrom"] == [{"secretRef": secret} for secret in DEPLOYMENTS[0]["envSecrets"]]


def test_the_deployment_in_your_own_values_has_the_secret_and_the_destination_of_ours() -> None:
    page = (ROOT / "docs" / "embedding.md").read_text()
    (block,) = re.findall(r"^ *```yaml\n( *dagster-user-deployments:.*?)```", page, re.MULTILINE | re.DOTALL)
    (theirs,) = yaml.safe_load(textwrap.dedent(block))["dagster-user-deployments"]["deployments"]
    ours = DEPLOYMENTS[0]
    assert theirs["env"] == [entry for entry in ours["env"] if entry["name"] != "PROPEL_EXECUTOR"]
    assert {k: theirs[k] for k in ("envSecrets", "includeConfigInLaunchedRuns")} == {
        k: ours[k] for k in ("envSecrets", "includeConfigInLaunchedRuns")
    }


def test_a_backup_after_a_kill_has_the_committed_data(tmp_path) -> None:
    (command,) = re.findall(r'python -c "(import duckdb;.*)"', (ROOT / "docs" / "production.md").read_text())
    database = tmp_path / "propel_auth_pipeline.duckdb"
    write = f"import duckdb, os; c = duckdb.connect('{database}'); c.execute('CREATE TABLE t AS SELECT 1'); os._exit(9)"
    subprocess.run([sys.executable, "-c", write], check=False)
    assert database.with_name(database.name + ".wal").exists()
    subprocess.run([sys.executable, "-c", command.replace(f"/data/{database.name}", str(database))], check=True)
    backup = shutil.copy(database, tmp_path / "backup.duckdb")
    with duckdb.connect(str(backup)) as restored:
        assert restored.execute("SELECT * FROM t").fetchall() == [(1,)]


def test_the_environment_without_containers_has_every_variable_of_the_files_it_copies() -> None:
    page = (ROOT / "docs" / "production.md").read_text()
    section = page.split("## Without containers")[1].split("\n## ")[0]
    (dagster, propelauth) = re.findall(r"^```text\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    named = re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text() + (DEPLOY / "workspace.yaml").read_text())
    assert {"DAGSTER_HOME", *named} == set(re.findall(r"^(\w+)=", dagster, re.MULTILINE))
    assert {"PROPELAUTH_AUTH_URL", "PROPELAUTH_API_KEY"} <= set(re.findall(r"^(\w+)=", propelauth, re.MULTILINE))


def test_the_upgrade_names_every_file_of_an_installation() -> None:
    page = (ROOT / "docs" / "production.md").read_text()
    section = page.split("## Upgrade and downgrade")[1].split("\n## ")[0]
    files = {path.name for pattern in ("compose*.yaml", "helm-*.yaml") for path in DEPLOY.glob(pattern)}
    assert files == set(re.findall(r"-f deploy/(\S+?\.yaml)", section))
    profiles = {profile for service in COMPOSE["services"].values() for profile in service.get("profiles", [])}
    assert profiles == set(re.findall(r"--profile (\w+)", section))


def test_the_documented_deletion_of_runs_deletes_finished_runs_only(tmp_path, monkeypatch) -> None:
    page = (ROOT / "docs" / "production.md").read_text()
    (code,) = re.findall(r'python -c "\n(from datetime.*?)"\n', page, re.DOTALL)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        for status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.STARTED):
            create_run_for_test(instance, status=status)
        exec(code)
        assert len(instance.get_runs()) == 2
        exec(code.replace("days=180", "days=-1"))
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.STARTED]


def test_the_workflows_have_the_form_that_github_reads() -> None:
    check = Path(sys.executable).with_name("check-jsonschema")
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert {path.stem for path in workflows} == {"ci", "release", "image"}
    command = [check, "--builtin-schema", "vendor.github-workflows", *workflows]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def workflow_of(name: str) -> dict[Any, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


def test_nothing_is_published_before_ci_has_passed_on_the_same_commit() -> None:
    jobs = workflow_of("release")["jobs"]
    # A workflow that is called by its path is the one of the caller's commit, and checks that commit out.
    assert jobs["gate"] == {"uses": "./.github/workflows/ci.yml"}
    for name in jobs.keys() - {"gate"}:
        chain = [name]
        while needed := jobs[chain[-1]].get("needs"):
            assert "if" not in jobs[chain[-1]]  # `always()` would run it after a failure
            chain.append(needed)
        assert chain[-1] == "gate"
    called = {job["uses"] for job in jobs.values() if "uses" in job}
    assert called == {"./.github/workflows/ci.yml", "./.github/workflows/image.yml"}
    for path in called:
        triggers = workflow_of(Path(path).stem)[True]  # YAML 1.1 reads `on` as true
        assert "workflow_call" in triggers
        assert "tags" not in str(triggers)
    (push,) = (s for s in workflow_of("image")["jobs"]["image"]["steps"] if "docker push" in s.get("run", ""))
    assert push["if"] == "github.ref_type == 'tag'"


def test_ci_runs_every_section_of_the_gate() -> None:
    (sections,) = re.findall(r'^SECTIONS="(.+)"$', (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    matrix = workflow_of("ci")["jobs"]["gate"]["strategy"]["matrix"]["sections"]
    assert sorted(" ".join(matrix).split()) == sorted(sections.split())


def test_a_release_is_refused_unless_its_tag_is_the_version() -> None:
    workflow = workflow_of("release")
    (step,) = (step for step in workflow["jobs"]["build"]["steps"] if step.get("name", "").startswith("The tag"))
    for tag, status in ((f"v{propel_assets.__version__}", 0), ("v999.0.0", 1)):
        env = {"GITHUB_REF_NAME": tag, "PATH": os.environ["PATH"]}
        assert subprocess.run(["sh", "-ec", step["run"]], cwd=ROOT, env=env, check=False).returncode == status
