"""Validates rendered manifests with the schemas of Kubernetes, and checks that their parts fit together.

check.py SCHEMAS VERSION,… FILE.yaml…     writes FILE.json: the environment of each container
"""

import functools
import json
import pathlib
import sys
import urllib.parse

import jsonschema
import yaml

schemas, versions, files = pathlib.Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
problems = []


@functools.lru_cache(maxsize=None)
def validator(version, api_version, kind):
    group, _, api = api_version.rpartition("/")
    name = "-".join(filter(None, [kind, group.split(".")[0], api])).lower()
    path = schemas / f"v{version}.0-local-strict" / f"{name}.json"
    schema = json.loads(path.read_text())
    shared = path.with_name("_definitions.json")
    # Under the name that the schemas use, so that no network is needed.
    store = {urllib.parse.urljoin(schema["$id"], "/api/_definitions.json"): json.loads(shared.read_text())}
    resolver = jsonschema.RefResolver(schema["$id"], schema, store=store)
    return jsonschema.Draft202012Validator(schema, resolver=resolver)


def pods(thing):
    spec = thing["spec"]
    if thing["kind"] in ("StatefulSet", "Deployment"):
        yield thing, spec["template"]
    if thing["kind"] == "CronJob":
        yield thing, spec["jobTemplate"]["spec"]["template"]


def environment(container, things):
    values = {}
    for source in container.get("envFrom", []):
        for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            if field not in source or source[field].get("optional"):
                continue
            found = [t for t in things if t["kind"] == kind and t["metadata"]["name"] == source[field]["name"]]
            if len(found) != 1:
                problems.append(f"{file}: {container['name']} refers to {kind} {source[field]['name']}: there is none")
            for thing in found:
                values.update(thing["data"])
    values.update({variable["name"]: variable["value"] for variable in container.get("env", [])})
    return values


def check_pod(owner, pod, things):
    where = f"{file}: {owner['kind']} {owner['metadata']['name']}"
    spec = pod["spec"]
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    claims = [claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])]
    if volumes & set(claims):
        problems.append(f"{where}: {volumes & set(claims)} are volumes and claims")
    if owner["kind"] == "StatefulSet":
        wanted = owner["spec"]["selector"]["matchLabels"].items()
        if not wanted <= pod["metadata"]["labels"].items():
            problems.append(f"{where}: the selector does not match its pods")
    for container in spec.get("initContainers", []) + spec["containers"]:
        name = f"{where}, {container['name']}"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes | set(claims):
                problems.append(f"{name}: there is no volume {mount['name']}")
        security = container.get("securityContext", {})
        if not (
            security.get("readOnlyRootFilesystem")
            and security.get("allowPrivilegeEscalation") is False
            and security.get("capabilities", {}).get("drop") == ["ALL"]
            and spec["securityContext"].get("runAsNonRoot")
        ):
            problems.append(f"{name}: not restricted")
        values = environment(container, things)
        grace = int(values.get("NIXERY_SHUTDOWN_GRACE", 0))
        if grace and owner["kind"] == "StatefulSet":
            before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
            if spec["terminationGracePeriodSeconds"] < before + grace + 10:
                problems.append(f"{name}: killed before NIXERY_SHUTDOWN_GRACE is over")
        yield f"{owner['kind']} {container['name']}", values


for file in files:
    things = [thing for thing in yaml.safe_load_all(pathlib.Path(file).read_text()) if thing]
    settings = {}
    for thing in things:
        for version in versions:
            for error in validator(version, thing["apiVersion"], thing["kind"]).iter_errors(thing):
                at = ".".join(map(str, error.absolute_path))
                problems.append(f"{file}: {thing['kind']} {thing['metadata']['name']} ({version}): {at}: {error.message}")
        for owner, pod in pods(thing) if "spec" in thing else ():
            settings.update(check_pod(owner, pod, things))
    labels = [pod["metadata"]["labels"] for thing in things if "spec" in thing for _, pod in pods(thing)]
    for thing in things:
        if thing["kind"] == "Service":
            wanted = thing["spec"]["selector"].items()
            if not any(wanted <= pod.items() for pod in labels):
                problems.append(f"{file}: Service {thing['metadata']['name']} selects no pod")
    pathlib.Path(file).with_suffix(".json").write_text(json.dumps(settings, indent=1))
    print(f"{file}: {len(things)} objects")

for problem in problems:
    print(problem, file=sys.stderr)
sys.exit(1 if problems else 0)
