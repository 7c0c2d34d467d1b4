"""The cluster examples: what Ray's own schema says of them, names of KubeRay's API, and the versions that we pin."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from controlmill.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "cluster"

# what ray.io/v1 of KubeRay has at its tag v1.5.1; source: ray-operator/config/crd/bases/ray.io_rayjobs.yaml there
RAY_JOB = {
    *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
    *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata"),
    *("rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig"),
    *("submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
}
RAY_CLUSTER = {
    *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec"),
    *("headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs"),
}
HEAD_GROUP = {"enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template"}
WORKER_GROUP = {
    *("groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams"),
    *("replicas", "resources", "scaleStrategy", "suspend", "template"),
}


@pytest.fixture(scope="module")
def ray_version() -> str:
    found = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def load(name: str) -> dict[str, Any]:
    values = yaml.safe_load((EXAMPLES / name).read_text())
    assert isinstance(values, dict)
    return values


def test_ray_up_fits_rays_schema_and_our_versions(ray_version: str) -> None:
    config = load("ray-up.yaml")
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_wrokers": 3}, schema)
    assert config["docker"]["image"].startswith(f"rayproject/ray:{ray_version}-py311")
    kinds = config["available_node_types"]
    assert config["head_node_type"] in kinds
    assert sum(kind.get("min_workers", 0) for kind in kinds.values()) <= config["max_workers"]


def test_nodes_find_their_image_their_token_and_the_wheel_that_was_made(tmp_path: Path) -> None:
    config = load("ray-up.yaml")
    nodes = [kind["node_config"] for kind in config["available_node_types"].values()]
    # without one Ray takes its default, of Ubuntu 18.04
    assert all(node["ImageId"].startswith("ami-") for node in nodes)
    (token,) = config["initialization_commands"]
    assert f"--region {config['provider']['region']}" in token
    pip = re.search(r"^PIP_VERSION \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert pip is not None
    (install,) = config["setup_commands"]
    for text in (install, (EXAMPLES / "Dockerfile").read_text()):
        assert text.index(f"pip=={pip[1]}") < text.index("--build-constraint /")
        (wheel,) = re.findall(r'"\$\(echo \S+?/(controlmill-\*\.whl)\)\[s3\]"', text)
        (tmp_path / "controlmill-1.0-py3-none-any.whl").touch()
        said = subprocess.run(
            ["sh", "-c", f'echo "$(echo {tmp_path}/{wheel})[s3]"'], check=True, capture_output=True, text=True
        )
        assert said.stdout == f"{tmp_path}/controlmill-1.0-py3-none-any.whl[s3]\n"


def test_the_rayjob_has_only_fields_that_kuberay_knows(ray_version: str) -> None:
    job = load("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec.keys() <= RAY_JOB
    assert cluster.keys() <= RAY_CLUSTER
    assert cluster["headGroupSpec"].keys() <= HEAD_GROUP
    assert all(group.keys() <= WORKER_GROUP for group in cluster["workerGroupSpecs"])
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
    # the one field of 1.5.1, which the head of the file names: secretName came with 1.6
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == ray_version
    containers = [
        container
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
        for container in group["template"]["spec"]["containers"]
    ]
    (image,) = {container["image"] for container in containers}
    assert image.endswith(f"ray-{ray_version}")
    assert f"FROM rayproject/ray:{ray_version}-py311" in (EXAMPLES / "Dockerfile").read_text()
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"env_vars"}
    words = spec["entrypoint"].split()
    assert words[:2] == ["exec", "controlmill"]
    assert words[2] in COMMANDS
    assert "ray_address=auto" in words


def test_no_secret_stands_in_an_example() -> None:
    for path in EXAMPLES.iterdir():
        assert not re.search(r"(?i)(secret_access_key|auth_token|password): *\S", path.read_text()), path.name
