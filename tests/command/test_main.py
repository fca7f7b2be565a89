"""The commands of ``python -m spmd`` that plan, explain and write."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm

import spmd
from spmd import Link, Mesh, Plan, Profile
from spmd.command import main
from tests import programs

PROGRAMS = str(Path(__file__).parents[1].joinpath("programs.py"))
MLP = [PROGRAMS, "--module", "Mlp", "--mesh", "tp=2"]


def explain(capsys, *arguments):
    """The exit status, what is printed and the error."""
    status = main(["explain", *arguments])
    return status, *capsys.readouterr()


def test_a_plan_and_its_report(capsys, tmp_path):
    page, saved = tmp_path / "plan.html", tmp_path / "plan.json"
    specs = ["--spec", 'w1=P(None, "tp")', "--spec", "w2=spmd.P('tp', None)"]
    status, out, err = explain(capsys, *MLP, *specs, "--html", str(page), "--save", str(saved))
    assert (status, err) == (0, "")
    assert out.startswith("Mesh(tp=2), profile generic, elimination width ")
    assert "\n  w1  [-, tp]\n  w2  [tp, -]\nmain: 1 all_reduce, 256 bytes, " in out
    assert "\nbytes moved\n" in out and out.endswith(f"wrote {page}\nwrote {saved}\n")
    assert page.read_text().startswith("<!DOCTYPE html>") and str(Plan.load(saved).params["w1"]) == "[-, tp]"


def test_a_time_line(capsys, tmp_path):
    trace, saved = tmp_path / "trace.json", tmp_path / "plan.json"
    specs = ["--spec", 'w1=P(None, "tp")', "--spec", "w2=P('tp', None)"]
    status, out, err = explain(capsys, *MLP, *specs, "--timeline", str(trace), "--traced", "--save", str(saved))
    assert (status, err) == (0, "") and out.endswith(f"us exposed)\nwrote {trace}\nwrote {saved}\n")
    names = {event["args"].get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"worker 0, predicted", "worker 1, traced"} <= names
    assert explain(capsys, str(saved), "--timeline", str(trace))[0] == 0
    assert "worker 1, traced" not in trace.read_text() and "worker 1, predicted" in trace.read_text()
    for given in ((str(saved), "--traced", "--timeline", str(trace)), (*MLP, "--traced")):
        assert explain(capsys, *given)[2] == "error: --traced: it runs a module, for a time line. Give a module, --mesh and --timeline.\n"


def test_more_workers(capsys, tmp_path):
    plot = tmp_path / "scaling.svg"
    assert main(["scaling", *MLP[:3], "--workers", "1,2", "--axis", "mp", "--profile", "cpu", "--svg", str(plot)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("predicted time, profile cpu\nmesh") and "\nMesh(mp=2)" in out and out.endswith(f"wrote {plot}\n")
    assert plot.read_text().startswith("<svg")
    assert main(["scaling", *MLP[:3], "--workers", "1,two"]) == 1
    assert capsys.readouterr().err == "error: --workers 1,two: it is no list of numbers. Write --workers 1,2,4,8.\n"


def test_a_proof(capsys):
    status = main(["verify", *MLP, "--spec", 'w1=P(None, "tp")', "--spec", 'w2=P("tp", None)'])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    assert out == "proven: 1 functions, 1 by relations of their values\n"


def test_a_plan_of_transformers_and_its_price(capsys, tmp_path):
    """Two layers that would stay whole."""
    file = tmp_path / "tp_plan.json"
    file.write_text('{"w1": "rowwise", "w2": "rowwise", "experts": "ep_router"}')
    status, out, err = explain(capsys, *MLP, "--tp-plan", str(file))
    assert (status, err) == (0, "")
    left, price = out.split("\nleft of ")[1].split("from the optimum to this plan:\n")
    assert left == "experts: ep_router: the model has no such weight\n"
    assert "  weights: 2 differ\n    w1: [-, -] -> [-, tp]\n    w2: [-, -] -> [-, tp]\n" in price
    assert " times)" in price.split("predicted time:")[1]
    file.write_text("{")
    assert explain(capsys, *MLP, "--tp-plan", str(file))[2].startswith(f"error: --tp-plan {file}: it is no JSON: ")


def test_one_name(capsys):
    status, out, _ = explain(capsys, *MLP, "--profile", "cpu", "--name", "w1", "--name", "main.x")
    assert status == 0 and out.startswith("w1: [-, -]\n  float32 16 x 32, whole on 2 workers") and "\nmain.x: [-, -]\n" in out
    assert out.splitlines()[-1].startswith("note: nothing is split: under profile 'cpu' ")


def test_hosts_devices_and_a_profile_of_your_own(capsys, tmp_path):
    profile, saved = tmp_path / "mine.json", tmp_path / "plan.json"
    Profile("mine", 1e12, 1e11, 1e10, 1e-6, links={"network": Link(1e9, 1e-5)}).save(profile)
    program = [PROGRAMS, "--module", "Mlp", "--mesh", "dp=2,tp=2", "--profile", str(profile)]
    status, out, _ = explain(capsys, *program, "--hosts", "2", "--devices", "0,2,1,3", "--save", str(saved))
    assert status == 0 and out.startswith("Mesh(dp=2, tp=2, hosts=2, devices=[0, 2, 1, 3]), profile mine, ")
    assert Plan.load(saved).mesh == Mesh(dp=2, tp=2, hosts=2, devices=[0, 2, 1, 3])
    profile.write_text("{}")
    assert explain(capsys, *program)[2].startswith("error: Profile.from_json: the field 'name' is missing.")


def test_sizes_and_a_number_of_workers(capsys):
    status, out, _ = explain(capsys, PROGRAMS, "--module", "Two", "--mesh", "2", "--size", "n=6", "--name", "second.x")
    assert status == 0 and "float32 n x 16, whole on 2 workers: 384 bytes of 384" in out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere.py", "--mesh", "2"], "nowhere.py: there is no such file. Give a Python file that defines an IRModule, a module as JSON"),
        ([PROGRAMS, "--mesh", "2"], "it defines the modules Mlp, Two. Choose one with --module."),
        ([PROGRAMS, "--module", "Mpl", "--mesh", "2"], "it defines no module 'Mpl'. Did you mean 'Mlp'"),
        ([PROGRAMS, "--module", "I", "--mesh", "2"], "'I' is a module, no IRModule."),
        ([__file__, "--mesh", "2"], "it defines no IRModule. Bind one to a name at the top of the file."),
        (MLP[:3], "--mesh: nothing says how many workers there are. Write --mesh tp=4."),
        ([*MLP, "--memory", "much"], "--memory much: it is no number of bytes. Write --memory 24GB"),
        ([*MLP, "--preset", "alpa"], "--preset alpa: there is no preset 'alpa'. There are megatron, "),
        ([*MLP, "--divisible", "n"], "--divisible n: 'n' is no new NAME=N."),
        ([*MLP[:3], "--mesh", "tp"], "--mesh tp: 'tp' is no new NAME=N. Write --mesh dp=2,tp=4."),
        ([*MLP[:3], "--mesh", "tp=2,tp=2"], "--mesh tp=2,tp=2: 'tp=2' is no new NAME=N."),
        ([*MLP, "--link", "dp=network"], "Mesh: links names 'dp', which is no axis. Its axes are 'tp'."),
        ([*MLP, "--hosts", "3"], "Mesh: 2 workers cannot stand on 3 hosts, as many on each."),
        ([*MLP, "--devices", "0"], "Mesh: devices is [0]. It has a device for each of 2 workers"),
        ([*MLP, "--profile", "nowhere.json"], "nowhere.json: No such file or directory"),
        ([*MLP, "--link", "tp"], "--link tp: it is no AXIS=NAME. Write --link dp=network."),
        ([*MLP, "--size", "n"], "--size n: 'n' is no new NAME=N. Write --size batch=1."),
        ([*MLP, "--spec", "w1"], "--spec 'w1': it is no PATTERN=P(...). Write --spec 'w1=P(\"tp\", None)'."),
        ([*MLP, "--spec", "w1=P(tp)"], "--spec 'w1=P(tp)': P(tp) is no spec: name 'tp' is not defined."),
        ([*MLP, "--spec", 'main.return=same("w1")'], "specs['main.return'] on 'main.return': it is 4 x 16, and 'w1' is 16 x 32. Name what"),
        ([*MLP, "--spec", "w3=P('tp', None)"], "specs['w3']: it matches no weight, input, value or result. Did you mean 'w2' or 'w1'?"),
        ([*MLP, "--profile", "h1"], "profile: there is no hardware profile 'h1'."),
        ([*MLP, "--name", "w3"], "Plan.explain: there is no value 'w3'. Did you mean 'w2' or 'w1'?"),
    ],
)
def test_errors_are_one_line_with_a_way_out(capsys, arguments, error):
    status, out, err = explain(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: ") and error in err and err.count("\n") == 1


def test_a_page_that_cannot_be_written(capsys, tmp_path):
    status, _, err = explain(capsys, *MLP, "--html", str(tmp_path / "no" / "plan.html"))
    assert (status, err) == (1, f"error: {tmp_path / 'no' / 'plan.html'}: No such file or directory\n")


def test_a_file_that_fails(capsys, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    error = explain(capsys, str(file), "--mesh", "2")[2]
    assert error == f"error: {file}: it fails with ZeroDivisionError: division by zero. It must run on its own.\n"


def test_a_file_may_import_its_neighbours(capsys, tmp_path):
    (tmp_path / "neighbour.py").write_text("from tests.programs import Mlp\n")
    (tmp_path / "program.py").write_text("from neighbour import Mlp\nsame = Mlp\n")
    assert explain(capsys, str(tmp_path / "program.py"), "--mesh", "2")[0] == 0


def test_from_the_shell():
    command = [sys.executable, "-m", "spmd", "explain", *MLP, "--name", "main"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=Path(__file__).parents[2])
    assert out.stdout.startswith("main: [-, -]\n") and out.stderr == ""


def test_constants_that_are_weights(tmp_path, capsys):
    file = tmp_path / "frozen.py"
    file.write_text(
        "import numpy as np\nfrom tvm import relax\nbuilder = relax.BlockBuilder()\n"
        "x = relax.Var('x', relax.TensorType((4, 64), 'float32'))\n"
        "with builder.function('main', [x]):\n    w = relax.const(np.ones((64, 64), 'float32'))\n"
        "    builder.emit_func_output(builder.emit(relax.op.matmul(x, w)))\nmodule = builder.finalize()\n"
    )
    name = "main.matmul.0.constant"
    assert main(["explain", str(file), "--mesh", "tp=2", "--spec", f"{name}=P(None, 'tp')", "--name", name]) == 0
    assert f"specs['{name}'] asks for P(None, 'tp')" in capsys.readouterr().out


def test_what_one_command_writes_the_next_reads(capsys, tmp_path):
    first, second, folder = tmp_path / "plan.json", tmp_path / "other.json", tmp_path / "sharded"
    assert main(["plan", *MLP, "--spec", "w1=P(None, 'tp')", "--spec", "w2=P('tp', None)", "-o", str(first)]) == 0
    assert main(["plan", *MLP, "-o", str(second)]) == 0
    assert main(["shard", *MLP[:3], "--plan", str(first), "-o", str(folder)]) == 0
    assert f"wrote {folder / 'module.json'}\nwrote {folder / 'plan.json'}\n" in capsys.readouterr().out
    made = tvm.ir.load_json((folder / "module.json").read_text())
    tvm.ir.assert_structural_equal(made, spmd.lower(programs.Mlp, Plan.load(first)))
    x, w1, w2 = (np.random.default_rng(i).standard_normal(shape, np.float32) for i, shape in enumerate([(4, 16), (16, 32), (32, 16)]))
    with spmd.workers(spmd.ShardedModule(made, Plan.load(folder / "plan.json"))) as w:
        np.testing.assert_allclose(w["main"](x, w1, w2), np.maximum(x @ w1, 0) @ w2, rtol=1e-5)
    assert main(["compare", str(first), str(second)]) == 0
    assert "w1" in capsys.readouterr().out
    assert main(["compare", str(first), str(first)]) == 0
    assert capsys.readouterr().out == "the plans are the same\n"
    assert main(["explain", str(first), "--name", "w1"]) == 0
    assert capsys.readouterr().out.startswith("w1: [-, tp]\n")


def test_a_plan_is_printed(capsys):
    assert main(["plan", *MLP]) == 0
    assert Plan.from_json(capsys.readouterr().out).mesh == Mesh(tp=2)


def test_presets_divisible_sizes_and_memory(capsys, tmp_path):
    two = [
        PROGRAMS,
        "--module",
        "Two",
        "--mesh",
        "dp=2",
        "--preset",
        "data_parallel",
        "--divisible",
        "n=2",
        "--sizes",
        "n=8",
        "--memory",
        "1 GB",
    ]
    saved = tmp_path / "plan.json"
    assert main(["plan", *two, "-o", str(saved)]) == 0
    plan = Plan.load(saved)
    assert plan.divisible == {"n": 2} and any("dp" in str(sharding) for sharding in plan.inputs.values())
    status, _, err = explain(capsys, *MLP, "--memory", "64 B")
    assert status == 1 and "no plan fits into 64 bytes" in err


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"spmd {spmd.__version__}\n"


def test_json(capsys, tmp_path):
    """Every command prints one object and nothing else; what it wrote is in it."""

    def told(*arguments):
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    first, second, folder, plot = (tmp_path / name for name in ("plan.json", "other.json", "sharded", "plot.svg"))
    specs = ["--spec", 'w1=P(None, "tp")', "--spec", "w2=P('tp', None)"]
    assert told("plan", *MLP, "-o", str(first))["wrote"] == [str(first)]
    assert told("plan", *MLP)["@"] == "Plan"
    explained = told("explain", *MLP, *specs, "--save", str(second), "--name", "w1")
    assert explained["mesh"] == {"tp": 2} and explained["weights"] == {"w1": "[-, tp]", "w2": "[tp, -]"}
    ((sent,), wrote) = explained["functions"]["main"]["collectives"], explained["wrote"]
    assert (sent["kind"], sent["axis"], sent["bytes"], wrote) == ("all_reduce", "tp", 256, [str(second)])
    assert explained["functions"]["main"]["memory_bytes"]["peak"] > 0 and explained["explained"]["w1"].startswith("w1")
    assert told("compare", str(first), str(first))["same"] and not told("compare", str(first), str(second))["same"]
    assert told("shard", *MLP, "--plan", str(second), "-o", str(folder))["wrote"][1] == str(folder / "plan.json")
    assert told("explain", str(folder / "plan.json"))["weights"] == explained["weights"]
    scaled = told("scaling", *MLP[:3], "--workers", "1,2", "--svg", str(plot))
    assert [point["mesh"] for point in scaled["points"]] == [{"tp": 1}, {"tp": 2}] and scaled["wrote"] == [str(plot)]
    assert told("verify", *MLP)["proven"] and told("doctor", "--quick")["tvm"]["works"]
