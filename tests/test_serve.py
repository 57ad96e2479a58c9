"""The local server: its pages, whom it answers, and runs that cannot be read."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import threading

import pytest
from typer.testing import CliRunner

import harness
from harness.cli import app
from harness.errors import ConfigError, TraceError
from harness.runs import find_runs
from harness.serve import address, hosts, make_server, render


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for name in ("expert", "random"):
        harness.evaluate(name, "alfworld", tasks="builtin-dev[:6]", out=out)
    return out, {r.meta.agent.name: r for r in find_runs(out) if r.meta.kind == "run"}


def page_data(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


@pytest.fixture
def server(played):
    found = make_server(played[0])
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def get(server, path, **headers):
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    for key, value in {"Host": f"localhost:{port}", **headers}.items():
        connection.putheader(key, value)
    connection.endheaders()
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def test_the_server_serves_its_pages_and_nothing_else(server, played):
    status, front = get(server, "/")
    assert status == 200
    assert front.count('href="/run/') >= 4
    assert front.count("<main") == 1
    runs = played[1]
    status, page = get(server, address(played[0], [runs["random"]]))
    assert (status, len(page_data(page)["rows"])) == (200, 6)
    status, page = get(server, address(played[0], [runs["expert"], runs["random"]]))
    assert (status, page_data(page)["agents"]) == (200, ["expert", "random"])
    name = runs["random"].path.name
    for path in ("/run/0", "/run/alfworld/random/x", "/../../etc/passwd", "/style.css",
                 f"/run/alfworld/random/../random/{name}", f"/run/alfworld//{name}",
                 f"/run/alfworld/random/{name}/alfworld/random"):  # fmt: skip
        assert get(server, path)[0] == 404


def test_the_server_answers_only_its_own_pages(server):
    port = server.server_address[1]
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, "/", Host="evil.example")[0] == 403
    assert get(server, "/", Host=f"evil.example:{port}")[0] == 403
    assert get(server, "/", Origin="http://evil.example")[0] == 403
    assert get(server, "/", Origin="null")[0] == 403
    assert get(server, "/", Origin=f"http://localhost:{port}")[0] == 200


@pytest.mark.parametrize("port", [80, 8000])
def test_the_hosts_of_a_port(port):
    assert {"127.0.0.1:80", "localhost:8000"} & hosts(port)
    assert ("localhost" in hosts(port)) == (port == 80)
    assert "evil.example" not in hosts(port)


def test_one_damaged_run_does_not_hide_the_others(played, tmp_path):
    out = tmp_path / "results"
    shutil.copytree(played[0], out)
    bad = next(out.glob("alfworld/random/*/run.json"))
    bad.write_text("{")
    call = CliRunner().invoke
    for words in (["leaderboard"], ["list", "runs"], ["view", "expert", "--failed"]):
        found = call(app, [*words, "--out", str(out)])
        assert "passed over" in found.stderr
        assert str(bad) in found.stderr.replace("\n", "")
    assert call(app, ["leaderboard", "--out", str(out)]).exit_code == 0
    page = render(out, "/")
    assert "Passed over" in page
    assert page.count('href="/run/') >= 1
    with pytest.raises(TraceError):
        find_runs(out)
    assert isinstance(call(app, ["view", str(bad.parent)]).exception, TraceError)


def test_runs_that_are_linked_from_elsewhere_do_not_hide_the_others(played, tmp_path):
    out, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    shutil.copytree(played[0], out)
    shutil.move(out / "alfworld" / "random", elsewhere)
    (out / "alfworld" / "random").symlink_to(elsewhere)
    name = played[1]["expert"].path.name
    (out / "alfworld" / "expert" / "again").symlink_to(out / "alfworld" / "expert" / name)
    front = render(out, "/")
    assert front.count("Passed over") == 1
    assert f"/run/alfworld/expert/{name}" in front
    assert "/run/alfworld/random/" not in front
    assert render(out, f"/run/alfworld/expert/{name}") is not None


def test_metrics_that_cannot_be_read_do_not_hide_the_others(played, tmp_path):
    out = tmp_path / "results"
    shutil.copytree(played[0], out)
    for name in ("expert", "random"):
        file = next(run.path for run in find_runs(out) if run.meta.agent.name == name)
        (file / "metrics.jsonl").unlink()
        if name == "expert":
            (file / "metrics.jsonl").mkdir()
    assert render(out, "/").count("Passed over") == 2
    assert "?" not in CliRunner().invoke(app, ["list", "runs", "--out", str(out)]).stdout


def test_a_server_needs_a_folder_and_a_port(played, server, tmp_path):
    with pytest.raises(ConfigError, match="No results folder"):
        make_server(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot be had"):
        make_server(played[0], server.server_address[1])
    found = CliRunner().invoke(app, ["view", "--serve", "--out", str(tmp_path / "nowhere")])
    assert isinstance(found.exception, ConfigError)
    found = CliRunner().invoke(app, ["view", "--serve", "--failed", "--out", str(played[0])])
    assert "filter in the browser" in str(found.exception)


def test_the_server_is_asked_for_runs_by_name(played):
    out, runs = played
    path = address(out, [runs["random"]])
    assert path == f"/run/alfworld/random/{runs['random'].path.name}"
    assert "random: episodes" in render(out, path)
    with pytest.raises(ConfigError, match="--out"):
        address(out / "alfworld", [runs["random"]])
