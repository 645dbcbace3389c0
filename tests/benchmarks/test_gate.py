"""The gate reads counts, judges them and writes budgets; what is over, lost or failing cannot pass."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from importlib.util import find_spec

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.fleet import NOW_US, ROOT, make_fleet
from benchmarks.gate import __main__ as commands
from benchmarks.gate import budgets, callgrind, compare, show, timing, trees
from benchmarks.gate import sample as samples
from benchmarks.gate.budgets import Budgets, Row, differs, judge, read_budgets, record, verdict_of, write_budgets
from benchmarks.gate.callgrind import WHOLE, Count, Counted, kernel_name, read_dump
from benchmarks.gate.errors import GateError
from benchmarks.gate.former_names import MODULES
from benchmarks.gate.running import Bundle
from etacore.models.registry import Registry
from etacore.store.server import RedisServer
from tests.models import add_table

TOOLS = {"compiler": "gcc 12", "numpy": "2.4", "python": "3.11"}
PARSE = Count("parse", 100, "vehicle", {WHOLE: 50_000, "a.parse": 40_000, "a.small": 900})
CALL = Count("estimator", 10, "call", {WHOLE: 90_000, "b.read": 30_000})

DUMP = """\
# callgrind format
desc: Trigger: Client Request: parse
positions: line
events: Ir
summary: 0

ob=/usr/lib/python
fn=call
5 10
cob=/x/_a.so
cfn=__pyx_pw_7etacore_10_snapshots_1parse_payloads
calls=2 0
5 700
cfn=memcpy
calls=1 0
5 33

ob=/x/_a.so
fn=__pyx_pw_7etacore_10_snapshots_1parse_payloads
9 650
cfn=memcpy
calls=1 0
9 50

fn=other
cfn=__pyx_pw_7etacore_10_snapshots_1parse_payloads
calls=1 0
5 7
totals: 800
"""


def slower(count, factor, kernel):
    n = dict(count.n_instructions)
    extra = round(n[kernel] * (factor - 1))
    return Count(count.workload, count.size, count.unit, n | {kernel: n[kernel] + extra, WHOLE: n[WHOLE] + extra})


def test_a_dump_gives_the_inclusive_counts_of_the_entry_points():
    assert read_dump(DUMP) == ("parse", {WHOLE: 800, "snapshots.parse_payloads": 707})


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("__pyx_pw_7etacore_8_kernels_9snapshots_1parse_payloads", "snapshots.parse_payloads"),
        ("__pyx_pw_7etacore_8_kernels_5fleet_5Fleet_11screen", "fleet.Fleet.screen"),
        ("__pyx_pw_7etacore_10_snapshots_1parse_payloads", "snapshots.parse_payloads"),
        ("__pyx_pw_7etacore_6_state_12VehicleTable_11screen", "fleet.VehicleTable.screen"),
        ("__pyx_pf_7etacore_7_forest_7Library_2predict", None),
        ("memcpy", None),
    ],
)
def test_names_of_entry_points(symbol, name):
    assert kernel_name(symbol) == name


def test_small_kernels_have_no_budget_of_their_own():
    assert PARSE.kernels(0.02) == ["a.parse"]
    assert Count("parse", 1, "row", {WHOLE: 20_000, "a.parse": 19_999}).kernels(0.02) == []
    assert list(record([PARSE], TOOLS).recorded) == [("parse", "a.parse"), ("parse", WHOLE)]


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [(100, 105, "ok"), (100, 105.1, "over"), (100, 94, "less"), (100, None, "gone"), (None, 100, "new")],
)
def test_verdicts(before, now, verdict):
    assert verdict_of(before, now, 1.05) == verdict


def test_ten_per_cent_in_one_kernel_is_over_and_nothing_else_is():
    allowed = record([PARSE, CALL], TOOLS)
    rows = judge([slower(PARSE, 1.10, "a.parse"), CALL], allowed, TOOLS)
    over = [(row.workload, row.kernel) for row in rows if row.verdict == "over"]
    assert over == [("parse", "a.parse"), ("parse", WHOLE)]
    assert {row.verdict for row in judge([PARSE, CALL], allowed, TOOLS)} == {"ok"}


def test_a_kernel_that_is_no_longer_called_and_one_without_budget_are_told():
    allowed = record([PARSE], TOOLS)
    renamed = Count("parse", 100, "vehicle", {WHOLE: 50_000, "a.read": 40_000})
    assert [(row.kernel, row.verdict) for row in judge([renamed], allowed, TOOLS)] == [
        ("a.parse", "gone"),
        (WHOLE, "ok"),
        ("a.read", "new"),
    ]
    assert {row.verdict for row in judge([], allowed, TOOLS)} == {"gone"}


@pytest.mark.parametrize(
    ("changed", "compared"),
    [
        ({}, ["a.parse", WHOLE, "b.read", WHOLE]),
        ({"python": "3.11.2"}, ["a.parse"]),
        ({"numpy": "2.0"}, ["a.parse"]),
        ({"compiler": "clang 14"}, []),
        ({"compiler": "gcc 14", "python": "3.12"}, []),
    ],
)
def test_what_was_recorded_with_other_tools_is_not_compared(changed, compared):
    here = TOOLS | changed
    slow = [slower(PARSE, 2, "a.parse"), slower(CALL, 2, "b.read")]
    rows = judge(slow, record([PARSE, CALL], TOOLS), here)
    assert [row.kernel for row in rows if row.verdict == "over"] == compared
    assert {row.verdict for row in rows} <= {"over", "not compared"}
    assert set(differs(record([], TOOLS), here)) == set(changed)


def test_budgets_keep_what_else_a_file_holds(tmp_path):
    path = tmp_path / "budgets.toml"
    path.write_text('[[budget]]\nname = "a"\n')
    for counts in ([PARSE], [PARSE, CALL]):
        write_budgets(record(counts, TOOLS), path)
        path.write_text(path.read_text() + '\n[[budget]]\nname = "b"\n')
    content = tomllib.loads(path.read_text())
    assert [entry["name"] for entry in content["budget"]] == ["a", "b", "b"]
    assert path.read_text().count(budgets.BEGIN) == 1
    assert read_budgets(path) == record([PARSE, CALL], TOOLS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing"),
        ("[[budget]]\n", "holds no instruction counts"),
        ("]", "holds no instruction counts"),
        ("[recorded]\nheadroom = 2\n[[instructions]]\nworkload='w'\nkernel='k'\nper='row'\ncount=1\n", "headroom is 2"),
    ],
)
def test_a_file_without_counts_is_an_error_that_names_it(tmp_path, text, message):
    path = tmp_path / "budgets.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(GateError, match=message) as error:
        read_budgets(path)
    assert str(path) in error.value.message


def test_a_file_that_lost_its_end_is_not_overwritten(tmp_path):
    path = tmp_path / "budgets.toml"
    path.write_text(f"{budgets.BEGIN}\n[[budget]]\n")
    with pytest.raises(GateError, match="has lost the line"):
        write_budgets(record([PARSE], TOOLS), path)
    assert "[[budget]]" in path.read_text()


def test_the_budgets_of_this_tree_cover_every_stage_and_leave_less_than_ten_per_cent():
    found = read_budgets()
    assert found.headroom <= 0.08
    stages = {"parse", "screen", "resolve", "select", "vectorize", "encode", "commit", "estimator"}
    stages |= {"forest, a batch", "read replies"}
    assert stages <= {workload for workload, _ in found.recorded}
    assert set(found.toolchain) == {"machine", "compiler", "cython", "libc", "forest", "numpy", "python"}


def test_trees_are_compared_kernel_by_kernel():
    rows = compare.compare_counts([PARSE], [slower(PARSE, 1.2, "a.parse"), CALL])
    assert [(row.workload, row.kernel, row.verdict) for row in rows] == [
        ("parse", "a.parse", "over"),
        ("parse", WHOLE, "over"),
        ("estimator", "b.read", "new"),
        ("estimator", WHOLE, "new"),
    ]
    assert rows[0].ratio == pytest.approx(1.2)


def test_a_kernel_with_another_name_is_judged_by_the_whole():
    renamed = Count("parse", 100, "vehicle", {WHOLE: 60_000, "a.read": 50_000})
    rows = compare.compare_counts([PARSE], [renamed])
    verdicts = {row.kernel: row.verdict for row in rows}
    assert verdicts == {"a.read": "new", "a.parse": "gone", WHOLE: "over"}

    assert show.in_one_line(rows, fails=("over",)) == "Over the limit: whole in 'parse' 1.200."


def test_a_workload_that_fails_is_no_pass():
    with pytest.raises(GateError, match=r"1 workloads fail, first 'parse': TypeError"):
        compare.check_all_ran(Counted([], "avx2", {"parse": "TypeError: no"}))


def times(scale, seed=0, n=7, noise=0.02):
    rng = np.random.default_rng(seed)
    return [{"parse": float(scale * (1 + noise * rng.standard_normal()))} for _ in range(n)]


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "ok"), (1.08, "ok"), (1.25, "over"), (0.5, "less")])
def test_times_are_over_only_if_the_whole_interval_is(scale, verdict):
    (found,) = timing.compare(times(1.0), times(scale, seed=1))
    assert found.verdict == verdict
    assert found.low <= found.ratio <= found.high


def test_noise_alone_is_no_regression():
    slow_once = [*times(1.0, n=4), *times(3.0, n=3)]
    (found,) = timing.compare(times(1.0), slow_once)
    assert found.verdict == "ok"


def test_sides_alternate():
    order = []
    timing.alternate(lambda: order.append("a") or {}, lambda: order.append("b") or {}, 3)
    assert "".join(order) == "abbaab"


ROWS = [Row("parse", "a.parse", "vehicle", 400.0, 440.0, "over"), Row("parse", WHOLE, "vehicle", 500.0, 500.0, "ok")]


def test_reports(tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv(show.SUMMARY_VARIABLE, str(summary))
    verdict = show.in_one_line(ROWS)
    assert verdict == "Over the limit: a.parse in 'parse' 1.100."
    show.write_reports(ROWS, [], before="b", verdict=verdict, json=tmp_path / "gate.json", table=tmp_path / "gate.md")
    assert "| parse | a.parse | 400.0 | 440.0 | vehicle | 1.100 | **over** |" in (tmp_path / "gate.md").read_text()
    assert summary.read_text() == "before\n" + (tmp_path / "gate.md").read_text()
    (first, _) = json.loads((tmp_path / "gate.json").read_text())["instructions"]
    assert (first["kernel"], first["ratio"], first["verdict"]) == ("a.parse", pytest.approx(1.1), "over")


@pytest.fixture
def counted(monkeypatch):
    """`count` answers with this."""
    found = Counted([PARSE, CALL], "avx2", {})
    monkeypatch.setattr(commands, "prepare", lambda tree: Bundle(tree, "key"))
    monkeypatch.setattr(callgrind, "count", lambda *_, **__: found)
    monkeypatch.setattr(budgets, "toolchain", lambda path: TOOLS | {"forest": path})
    monkeypatch.delenv(show.SUMMARY_VARIABLE, raising=False)
    return found


def test_the_exit_code_tells(tmp_path, counted):
    path = str(tmp_path / "budgets.toml")
    run = CliRunner().invoke
    assert run(commands.main, ["count", "--budgets", path]).exit_code == 2
    assert run(commands.main, ["record", "--budgets", path]).exit_code == 0
    assert run(commands.main, ["count", "--budgets", path]).exit_code == 0
    counted.counts[0] = slower(PARSE, 1.10, "a.parse")
    result = run(commands.main, ["count", "--budgets", path])
    assert result.exit_code == 1
    assert "Over the limit: a.parse in 'parse' 1.100; whole in 'parse' 1.080." in result.output
    counted.failed["encode"] = "TypeError"
    result = run(commands.main, ["count", "--budgets", path])
    assert result.exit_code == 2
    assert "1 workloads fail" in result.output


def test_another_compiler_compares_nothing_and_says_so(tmp_path, counted, monkeypatch):
    path = tmp_path / "budgets.toml"
    write_budgets(Budgets({"compiler": "gcc 99"}, 0.05, {("parse", WHOLE): ("vehicle", 1.0)}), path)
    result = CliRunner().invoke(commands.main, ["count", "--budgets", str(path)])
    assert result.exit_code == 0
    assert "compiler gcc 12 (recorded with gcc 99)" in result.output
    assert "Nothing was compared." in result.output


def test_a_missing_valgrind_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GateError, match="valgrind is missing") as error:
        callgrind.count(Bundle(tmp_path, "key"), tree=ROOT)
    assert error.value.hint == "apt-get install valgrind"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit that has no kernels."""
    for arguments in (
        ["init", "--quiet"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--allow-empty", "-m", "first"],
    ):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.setattr(trees, "ROOT", tmp_path)
    monkeypatch.setattr(trees, "CACHE", tmp_path / "build")
    return tmp_path


def worktrees(repository):
    done = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True, check=True)
    return len(done.stdout.splitlines())


@pytest.mark.parametrize("commit", ["nothing", "--help", ""])
def test_a_commit_that_is_not_there_is_told(repository, commit):
    with pytest.raises(GateError, match=f"commit '{commit}' cannot be used") as error:
        trees.resolve(commit)
    assert "fetch-depth" in error.value.hint


def test_a_tree_has_the_modules_that_it_has(tmp_path):
    """An editable installation of the package does not fill its gaps."""
    (tmp_path / "etacore").mkdir()
    (tmp_path / "etacore" / "__init__.py").touch()
    program = (
        "import sys; from pathlib import Path; from benchmarks.gate.worker import _import_from;"
        " _import_from(Path(sys.argv[1])); import etacore.schema"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "No module named 'etacore.schema'" in done.stderr


def test_a_tree_without_folders_is_measured_by_its_former_names(tmp_path):
    package = tmp_path / "etacore"
    (package / "mlops").mkdir(parents=True)
    for name in ("__init__", "schema", "mlops/__init__", "mlops/bitmask"):
        (package / f"{name}.py").touch()
    (package / "engine.py").write_text("from etacore.model import Model\nclass Models: pass\n")
    (package / "model.py").write_text("class Model: pass\n")
    program = """
import sys
from pathlib import Path
from benchmarks.gate.worker import _import_from
_import_from(Path(sys.argv[1]))
from etacore.mlops.bundling import bitmask
from etacore.models.choice import Models
from etacore.models.model import Model
import etacore.pipeline.engine, etacore.engine, etacore.schema
print(bitmask.__name__, Models.__module__, Model.__module__, etacore.pipeline.engine is etacore.engine)
import etacore.pipeline.batch
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "etacore.mlops.bitmask etacore.engine etacore.model True\n"
    assert "No module named 'etacore.pipeline.batch'" in done.stderr


def test_former_names_are_those_of_modules_that_workloads_import():
    used = set()
    for file in ("fleet", "gate/replies", "gate/sample", "gate/worker", "gate/workloads"):
        for node in ast.walk(ast.parse((ROOT / f"benchmarks/{file}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("etacore"):
                used |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert set(MODULES) <= used
    assert all(find_spec(name) is not None for name in MODULES)
    folders = {name for name in used if name.count(".") > 1 and (ROOT / f"{name.replace('.', '/')}.py").exists()}
    assert folders <= set(MODULES)


def test_without_origin_the_base_is_the_last_commit(repository):
    assert trees.default_base() == "HEAD"
    assert trees.describe(trees.resolve("HEAD")).endswith(" first")


@pytest.mark.parametrize("reason", [KeyboardInterrupt, SystemExit, GateError])
def test_no_worktree_is_left_behind(repository, monkeypatch, reason):
    kernels = repository / "kernels"
    kernels.mkdir()
    monkeypatch.setattr(trees, "_kernels", lambda *_: kernels)
    seen = []

    def interrupted():
        with trees.checkout("HEAD") as tree:
            seen.append((tree, worktrees(repository)))
            raise reason("stop")

    with pytest.raises(reason):
        interrupted()
    ((tree, n),) = seen
    assert (n, worktrees(repository)) == (2, 1)
    assert not tree.parent.exists()


def test_a_base_that_does_not_build_is_told(repository):
    with pytest.raises(GateError), trees.checkout("HEAD"):
        pass
    assert worktrees(repository) == 1
    (repository / "setup.py").write_text("raise SystemExit('no compiler today')")
    with pytest.raises(GateError, match=r"(?s)commit x does not build:.*no compiler today"):
        trees.build(repository, "commit x")


def test_a_sample_is_taken_from_a_running_system(tmp_path, monkeypatch):
    """Vehicles, their routes, nothing else; and nothing is written."""
    monkeypatch.setattr(samples, "system_clock_us", lambda: NOW_US)
    fleet = make_fleet(40)
    add_table(Registry(tmp_path / "registry"), "table")
    with RedisServer() as server, server.client() as client:
        client.mset(dict(zip(fleet.keys, fleet.payloads, strict=True)) | fleet.routes | {b"other": b"1"})
        before = client.dbsize()
        arguments = ["sample", "--redis-url", server.url, "--model-registry-dir", str(tmp_path / "registry")]
        arguments += ["--vehicles", "30", "--wait", "0", "--output", str(tmp_path / "sample.json")]
        result = CliRunner().invoke(commands.main, arguments)
        assert result.exit_code == 0, result.output
        assert client.dbsize() == before
        client.flushall()
        assert "no vehicle under vehicle:*" in CliRunner().invoke(commands.main, arguments).output
    sample = samples.read_sample(tmp_path / "sample.json")
    assert [moment.keys for moment in sample.moments] == [sorted(fleet.keys)[:30]] * 2
    of_vehicles = {f"route_stops:{json.loads(payload)['route']}".encode() for payload in sample.moments[0].payloads}
    assert sample.routes == sample.values == {key: fleet.routes[key] for key in of_vehicles}
