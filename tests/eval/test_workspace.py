"""The W&B workspace as code: its panels, and the request that saves it, without W&B."""

import gzip
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from paths import ROOT

from configs.cli import run
from configs.load import load
from configs.schema import WorkspaceConfig
from eval.workspace import PICTURES, SECTIONS, build_workspace, main

pytest.importorskip("wandb_workspaces")
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")  # of wandb-workspaces


def _sections(*arguments: str) -> dict[str, list[dict]]:
    """Section name -> settings of its panels, from the JSON that W&B would get."""
    workspace = build_workspace(load(WorkspaceConfig, ["entity=team", *arguments]))
    return _panels(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def _panels(spec: str) -> dict[str, list[dict]]:
    bank = json.loads(spec)["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in bank}


def test_workspace_has_a_section_for_each_part_of_a_run():
    sections = _sections()
    assert list(sections) == [*SECTIONS, PICTURES]
    for name, lines in SECTIONS.items():
        assert [(panel["chartTitle"], panel["metricRegex"]) for panel in sections[name]] == list(lines)
        assert all(panel["useMetricRegex"] and panel["xAxis"] == "_step" for panel in sections[name])


def test_pictures_are_those_of_the_named_benchmarks():
    video, heatmaps, similarity, *tables = _sections("benchmarks=[vggss, places_retrieval, mine]")[PICTURES]
    assert video["mediaKeys"] == ["media/heatmap"]
    assert heatmaps["mediaKeys"] == [f"media/{name}/heatmaps" for name in ("vggss", "places_retrieval", "mine")]
    assert similarity["mediaKeys"] == ["media/places_retrieval/similarity", "media/mine/similarity"]
    assert ["media/places_retrieval/best" in json.dumps(table) for table in tables] == [True, False]
    assert "media/is3/heatmaps" in _sections()[PICTURES][1]["mediaKeys"]


def test_missing_entity_and_missing_key_are_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "")
    for arguments, code, message in (
        ([], 2, "error: entity= is missing: give the W&B user or team that owns the project\n"),
        (["entity=team"], 1, "error: W&B has no key: run `wandb login` or set WANDB_API_KEY\n"),
    ):
        assert run(WorkspaceConfig, "", main, arguments) == code
        assert capsys.readouterr().err == message


class Server(BaseHTTPRequestHandler):
    """The two answers of W&B's GraphQL server that saving a view needs; records the views."""

    views: ClassVar[list[dict]] = []
    viewer: ClassVar = {
        "id": "1",
        "entity": "team",
        "username": "u",
        "email": "u@t",
        "flags": "{}",
        "teams": {"edges": []},
    }

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        answer = {"viewer": self.viewer}
        if "upsertView" in request["query"]:
            self.views.append(request["variables"])
            answer = {"upsertView": {"view": {"id": "2", "name": "nw-abc-v"}, "inserted": True}}
        content = json.dumps({"data": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_command_sends_the_view_and_prints_its_address(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        environment = {"WANDB_BASE_URL": address, "WANDB_API_KEY": 40 * "k", "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "eval.workspace", "entity=team", "project=sounds", "name=Mine"],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert f"workspace: {address}/team/sounds?nw=abc" in done.stdout
    (view,) = Server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("team", "sounds", "Mine")
    assert list(_panels(view["spec"])) == [*SECTIONS, PICTURES]
