"""What Dagster would have Kubernetes run, against Kubernetes' own schemas."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import kubernetes_validate
import pytest
import yaml


class Api(BaseHTTPRequestHandler):
    """Takes every job, and says of each that it has failed."""

    jobs: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.jobs.append(json.loads(body))
        self._answer(201, json.loads(body))

    def do_GET(self) -> None:
        self._answer(200, {"apiVersion": "batch/v1", "kind": "Job", "status": {"failed": 1}})

    def do_DELETE(self) -> None:
        self._answer(200, {"apiVersion": "v1", "kind": "Status", "status": "Success"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def cluster(tmp_path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """A kubeconfig, and the jobs that were asked for with it."""
    handler = type("ThisApi", (Api,), {"jobs": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        where = {"server": f"http://127.0.0.1:{server.server_port}"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": where}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }
        file = tmp_path / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        yield file, handler.jobs
        server.shutdown()


@pytest.mark.slow
def test_each_scan_is_a_job_that_kubernetes_accepts(cluster, settings, sandbox, tmp_path, monkeypatch) -> None:
    kubeconfig, jobs = cluster
    home = tmp_path / "dagster_home"
    home.mkdir()
    launcher = {
        "module": "dagster_k8s",
        "class": "K8sRunLauncher",
        "config": {
            "load_incluster_config": False,
            "kubeconfig_file": str(kubeconfig),
            "service_account_name": "dagster",
            "job_image": "propel-assets:latest",
            "dagster_home": "/opt/dagster/home",
            "instance_config_map": "dagster-instance",
            "job_namespace": "data",
            "env_secrets": ["propelauth"],
        },
    }
    (home / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": launcher, "telemetry": {"enabled": False}}))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("PROPEL_EXECUTOR", "k8s")
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "propel_assets.definitions"]
    command += ["--select", "key:propel_auth/user_query or key:propel_auth/org_query"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert "Discovered failed Kubernetes job" in ran.stdout + ran.stderr

    assert {job["spec"]["template"]["metadata"]["labels"]["dagster/op"] for job in jobs} == {
        "propel_auth_load_users",
        "propel_auth_load_orgs",
    }
    for job in jobs:
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "propel-assets:latest"
        assert container["args"][:3] == ["dagster", "api", "execute_step"]
        assert container["envFrom"] == [{"secretRef": {"name": "propelauth"}}]
    assert sandbox.api_key not in json.dumps(jobs)
