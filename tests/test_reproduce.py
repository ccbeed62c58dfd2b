"""The smoke profile through papermill, once; what is current; the record; bad input ends in one
sentence."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lib.freezing import pack
from lib.report import explorer, session
from lib.report.figures import use_style
from lib.report.page import FIGURES
from lib.reproduce import __main__ as reproduce
from lib.reproduce import notebooks, plan, record
from lib.study import showcase, store
from lib.study.jobs import jobs
from lib.study.products import PRODUCTS, task1
from lib.study.profile import load

ROOT = Path(__file__).parents[1]


def command(results, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "lib.reproduce", *arguments],
        cwd=ROOT,
        text=True,
        timeout=600,
        env={**os.environ, "RESULTS": str(results), **environment},
        capture_output=True,
    )


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """Results folder with the finished smoke profile."""
    results = tmp_path_factory.mktemp("results")
    done = command(results, "run", "--profile", "smoke")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"done 10/10  seed \d  .*about 0 s left", done.stdout), (
        "progress with time left"
    )
    return results


def table(results, name):
    return list(csv.DictReader((results / "smoke/tables" / f"{name}.csv").open()))


def test_all_notebooks_leave_a_manifest_tables_figures_and_a_report(smoke):
    for name in session.NOTEBOOKS:
        manifest = json.loads((smoke / "smoke" / name / "manifest.json").read_text())
        assert (
            manifest["outputs"]
            and manifest["inputs"]["profile"]
            and manifest["provenance"]["python"]
        )
        assert all((smoke / "smoke" / f).stat().st_size > 0 for f in manifest["outputs"])
        assert name in (smoke / "smoke/report/index.html").read_text()
    index = (smoke / "smoke/report/index.html").read_text()
    places = [
        index.index(part)
        for part in (
            "Freezing the filters that explanation chooses",
            'id="figure-forest"',
            'id="figure-over_epochs"',
            'id="verdicts"',
            "C2-random",
            'id="figure-plane"',
            'id="figure-samples"',
            'id="use"',
            'download="claims.csv"',
            'href="01_train_task1.html"',
        )
    ]
    assert places == sorted(places)  # the answer first
    linked = [x for x in re.findall(r'href="([^"]+)"', index) if not x.startswith(("#", "data:"))]
    assert sorted(linked) == [f"{name}.html" for name in session.NOTEBOOKS]
    assert all((smoke / "smoke/report" / link).is_file() for link in linked)
    for (
        name
    ) in session.NOTEBOOKS:  # the executed notebooks and their pages show every figure they wrote
        outputs = json.loads((smoke / "smoke" / name / "notebook.ipynb").read_text())["cells"]
        pictures = sum(
            "image/png" in o.get("data", {}) for c in outputs for o in c.get("outputs", [])
        )
        manifest = json.loads((smoke / "smoke" / name / "manifest.json").read_text())
        assert pictures == sum(f.endswith(".png") for f in manifest["outputs"]) > 0
        assert (smoke / f"smoke/report/{name}.html").read_text().count(
            'src="data:image/png'
        ) == pictures
        said = [o for c in outputs for o in c.get("outputs", []) if o["output_type"] == "stream"]
        assert {o["name"] for o in said} == {"stdout"}, name  # nothing in red
        assert "epoch 1/" not in json.dumps(said), name  # progress is in the log
    drawn = {p.stem for p in (smoke / "smoke/figures").glob("*.png")}
    # readings: of a grid that no other profile has; methods: smoke has none but freezing
    shown = set(FIGURES) - {"readings", "methods"}
    assert drawn == shown  # each with its caption, and in the page
    assert all(f'id="figure-{name}"' in index for name in shown)
    assert len(table(smoke, "runs")) == 10 and {r["data"] for r in table(smoke, "runs")} == {
        "digits"
    }
    found = {r["claim"] for r in table(smoke, "claims")}
    assert {"C0", "C2-random", "C3a", "C5b"} <= found
    assert "C2b-random" not in found  # at one fraction no curve
    assert {"claim", "setting", "estimate", "low", "high", "n", "p", "verdict"} <= table(
        smoke, "claims"
    )[0].keys()
    assert {"run", "round", "epoch", "task", "accuracy"} <= table(smoke, "accuracy")[0].keys()
    assert all(
        float(r["acc1_before"]) > 0.5 for r in table(smoke, "runs") if r["acc1_before"]
    )  # task 1 was learned
    assert (smoke / "smoke/log.txt").read_text().count("epoch") > 20


def test_a_second_call_does_nothing_and_imports_no_torch(smoke):
    before = {p: p.stat().st_mtime_ns for p in smoke.rglob("*")}
    script = (
        "import sys; from lib.reproduce.__main__ import main; code = main(['run', '--profile', "
        "'smoke']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "RESULTS": str(smoke)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "all 7 notebooks are current" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in smoke.rglob("*")} == before


def test_a_missing_output_a_changed_table_or_a_new_row_makes_its_notebook_stale(
    smoke, tmp_path, monkeypatch
):
    shutil.copytree(smoke / "smoke", tmp_path / "smoke")
    monkeypatch.setenv("RESULTS", str(tmp_path))
    profile, last = load("smoke"), session.NOTEBOOKS[-1]
    current = lambda: [session.is_current(n, profile) for n in session.NOTEBOOKS]  # noqa: E731
    assert current() == [True] * 7
    assert not session.is_current(last, load("smoke", seeds="1"))
    claims = tmp_path / "smoke/tables/claims.csv"
    text = claims.read_text()
    claims.write_text(text + "x")
    assert current() == [True] * 5 + [False, True]
    claims.write_text(text)
    (tmp_path / "smoke/runs/run/new.meta.json").write_text("{}")
    assert current() == [True] * 4 + [False] * 3


def test_a_report_or_an_executed_notebook_that_is_not_whole_is_made_again(
    smoke, tmp_path, monkeypatch, capsys
):
    shutil.copytree(smoke / "smoke", tmp_path / "smoke")
    monkeypatch.setenv("RESULTS", str(tmp_path))
    profile, report = load("smoke"), tmp_path / "smoke/report"
    assert notebooks.report_is_current(profile)
    index = (report / "index.html").read_bytes()
    for harm in (
        lambda: shutil.rmtree(report),
        lambda: (report / "manifest.json").unlink(),  # killed before it was whole
        lambda: (report / "manifest.json").write_text("{}"),
        lambda: (report / "index.html").write_text("half"),
        lambda: (report / f"{session.NOTEBOOKS[5]}.html").unlink(),
    ):
        harm()
        assert not notebooks.report_is_current(profile)
        shutil.rmtree(report, ignore_errors=True)
        shutil.copytree(smoke / "smoke/report", report)
        assert notebooks.report_is_current(profile)
    (report / f"{session.NOTEBOOKS[5]}.html").unlink()
    assert reproduce.main(["run", "--profile", "smoke"]) == 0
    assert "running" not in capsys.readouterr().out
    assert notebooks.report_is_current(profile)
    assert (report / "index.html").read_bytes() == index
    # killed after the last manifest, before papermill wrote the answer's cell
    current = lambda: [session.is_current(n, profile) for n in session.NOTEBOOKS]  # noqa: E731
    executed = tmp_path / "smoke" / session.NOTEBOOKS[5] / "notebook.ipynb"
    executed.write_text(executed.read_text().replace("verdict", "", 1))
    all_but_one = [True] * 5 + [False, True]
    assert current() == all_but_one
    manifest = session.manifest_path(tmp_path / "smoke", session.NOTEBOOKS[5])
    session.note_executed(tmp_path / "smoke", session.NOTEBOOKS[5])
    assert current() == [True] * 7 and not notebooks.report_is_current(profile)
    plain = json.loads(manifest.read_text())
    del plain["executed"]
    manifest.write_text(json.dumps(plain))
    assert current() == all_but_one


@pytest.mark.parametrize("name", ["readings", "recipes", "tuning"])
def test_the_report_is_stale_when_a_table_of_the_command_line_changes(tmp_path, monkeypatch, name):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    path, stamps = tmp_path / f"smoke/tables/{name}.csv", [notebooks._report_inputs(load("smoke"))]
    path.parent.mkdir(parents=True)
    for text in ("a\n1\n", "a\n2\n"):
        path.write_text(text)
        stamps.append(notebooks._report_inputs(load("smoke")))
        assert stamps[-1] == notebooks._report_inputs(load("smoke"))
    assert len(set(stamps)) == 3


def test_the_plan_ends_with_what_makes_a_grid_s_tables():
    said = plan._tables_next()
    assert said.count("make verify") == 1
    assert "make verify PROFILE=compact_readings WRITE=1" in said


def test_published_rows_restore_to_the_same_bytes(smoke, tmp_path, monkeypatch, capsys):
    shutil.copytree(smoke / "smoke", tmp_path / "smoke")
    monkeypatch.setenv("RESULTS", str(tmp_path))
    monkeypatch.setattr(record, "PUBLISHED", tmp_path / "published")
    metas = list((tmp_path / "smoke/runs").rglob("*.meta.json"))
    first = json.loads(metas[0].read_text())
    if first[
        "dirty"
    ]:  # while lib is being edited: first see that it is refused, then say it was clean
        assert reproduce.main(["publish", "--profile", "smoke"]) == 1
        assert "uncommitted" in capsys.readouterr().err
        for path in metas:
            path.write_text(path.read_text().replace('"dirty": true', '"dirty": false'))
    assert reproduce.main(["publish", "--profile", "smoke"]) == 0
    assert not list((tmp_path / "published").rglob("*.pt"))
    shutil.rmtree(tmp_path / "smoke")
    assert reproduce.main(["restore", "--profile", "smoke"]) == 0
    for kind in record.recorded():
        again = {
            p.name: p.read_bytes()
            for p in (tmp_path / "smoke/runs" / kind).glob("*.json")
            if "meta" not in p.name
        }
        was = {
            p.name: p.read_bytes()
            for p in (smoke / "smoke/runs" / kind).glob("*.json")
            if "meta" not in p.name
        }
        assert again == was and was
    assert not any(jobs(load("smoke"), kind) for kind in PRODUCTS)
    # goes on where the record stops
    assert [j.seed for j in jobs(load("smoke", seeds="1-3"), "task1")] == [3]
    shutil.copytree(smoke / "smoke/tables", tmp_path / "smoke/tables")
    assert reproduce.main(["compare", "--profile", "smoke"]) == 0
    agreement = pd.read_csv(tmp_path / "smoke/tables/agreement.csv").iloc[0]
    rows = len(pd.read_csv(smoke / "smoke/tables/runs.csv"))
    assert (
        agreement["rows here"]
        == agreement["in the record"]
        == agreement["the same to the last bit"]
        == rows
        > 5
    )
    assert agreement["of acc2"] == 0 and f"{rows} of {rows} rows" in capsys.readouterr().out
    table = tmp_path / "smoke/tables/runs.csv"
    runs = pd.read_csv(table)
    runs.loc[0, "acc2"] += 0.25
    runs.to_csv(table, index=False)
    assert reproduce.main(["compare", "--profile", "smoke"]) == 0
    agreement = pd.read_csv(tmp_path / "smoke/tables/agreement.csv").iloc[0]
    assert agreement["the same to the last bit"] == rows - 1 and agreement[
        "of acc2"
    ] == pytest.approx(25)
    shutil.rmtree(tmp_path / "smoke/tables")
    pack = next((tmp_path / "published/smoke/runs").glob("*.jsonl"))
    pack.write_text(pack.read_text().replace('"acc1": 0.', '"acc1": 1.'))
    shutil.rmtree(tmp_path / "smoke")
    assert reproduce.main(["restore", "--profile", "smoke"]) == 1
    assert "damaged" in capsys.readouterr().err


def test_a_seed_of_one_s_own_is_shown_and_shipped(smoke, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(smoke))
    profile, tables = load("smoke"), smoke / "smoke/tables"
    show = showcase.here(profile, 1)
    masks = store.with_parts(pd.read_csv(tables / "masks.csv", dtype={"mask": str}))
    masks = masks[(masks["arm"] == "MSE 50 %") & (masks["seed"] == 1)].set_index("layer")["mask"]
    assert {k: pack(m) for k, m in show.choice("mse", 0.5).items()} == masks.to_dict()
    panel = explorer.choices(show, explorer.record_of(show), ranking="pearson")
    panel.controls["layer"].value = "conv1_1"
    assert "Pearson at 50%" in panel.words.value and panel.picture.value
    # the record of this very checkpoint must be published, and agree
    monkeypatch.setattr(showcase, "ROOT", tmp_path)
    place = tmp_path / "results/published/smoke/tables/task1.csv"
    with pytest.raises(ValueError, match="task1.csv has no row of seed 1 .*make publish"):
        showcase.make(profile, 1, tmp_path / "shown")
    place.parent.mkdir(parents=True)
    before = pd.read_csv(tables / "task1.csv")
    before.assign(acc1_before=before["acc1_before"] - 0.02).to_csv(place, index=False)
    with pytest.raises(
        ValueError, match="acc1_before of seed 1 is .* half precision and .* record"
    ):
        showcase.make(profile, 1, tmp_path / "shown")
    before.to_csv(place, index=False)
    monkeypatch.setattr(showcase, "LARGEST", 1000)
    with pytest.raises(ValueError, match="bytes to ship: expected at most 1,000"):
        showcase.make(profile, 1, tmp_path / "shown")
    assert not (tmp_path / "shown").exists()
    monkeypatch.setattr(showcase, "LARGEST", 5_000_000)
    showcase.make(profile, 1, tmp_path / "shown")
    again = showcase.read(tmp_path / "shown")
    assert again.scores("ssim").keys() == show.scores("ssim").keys()
    assert all((again.scores("ssim")[k] == show.scores("ssim")[k]).all() for k in show.pictures)


def test_figures_are_drawn_again_from_tables_alone_with_the_same_bytes(
    smoke, tmp_path, monkeypatch
):
    shutil.copytree(smoke / "smoke", tmp_path / "smoke")
    for path in (tmp_path / "smoke/tables").iterdir():  # few figures, which take seconds: all of
        if path.stem not in ("runs", "arms", "trajectory"):  # the record's are drawn by `verify`
            path.unlink()
    name = tmp_path / "smoke/figures/plane.svg"
    before = name.read_bytes()
    name.unlink()
    done = command(tmp_path, "figures", "--profile", "smoke")
    assert done.returncode == 0 and name.read_bytes() == before
    monkeypatch.setenv("RESULTS", str(tmp_path))
    try:
        assert reproduce.main(["figures", "--profile", "smoke", "--style", "ggplot"]) == 0
    finally:
        use_style()  # of this process, for the tests that follow
    styled = tmp_path / "smoke/figures_ggplot/plane.svg"  # elsewhere: publish compares the others
    assert styled.read_bytes() != before == name.read_bytes()


def test_the_executed_notebooks_carry_no_error_and_the_sources_no_output():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = [c for c in cells if c["cell_type"] == "code"]
        assert not any(c["outputs"] or c["execution_count"] for c in code), path.name
        assert ["parameters"] in [c["metadata"].get("tags") for c in code], path.name
        assert 8 <= len(code) <= 18 and code[-1]["source"][-1].startswith("session.finish()"), (
            path.name
        )
        parameters = next(c for c in code if "parameters" in c["metadata"].get("tags", []))
        assert all(
            line.split("#")[0].split("=")[1].strip().startswith('"')
            for line in parameters["source"]
        )


@pytest.mark.parametrize("folder", [".", "notebooks", "results/published"])
def test_a_notebook_finds_lib_from_wherever_it_is_started(folder):
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        code = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        script = "".join(code[0]["source"]) + "\nimport lib.seeds; print(lib.seeds.__file__)"
        done = subprocess.run(
            [sys.executable, "-I", "-c", script], cwd=ROOT / folder, text=True, capture_output=True
        )
        assert done.stdout.strip() == str(ROOT / "lib/seeds.py"), (path.name, done.stderr)


def test_badges_and_clone_addresses_name_the_repository_of_pyproject():
    import tomllib

    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["study"]["repository"]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = path.read_text()
        assert f"colab.research.google.com/github/{name}/blob/main/notebooks/{path.name}" in text
        assert f'https://github.com/{name}\\"' in text


def test_nothing_published_names_a_place_on_a_machine():
    for path in (ROOT / "results/published").rglob("*"):
        if path.suffix in (".ipynb", ".json", ".csv", ".jsonl"):
            assert not re.search(r"/(home|Users|root|tmp|work)/", path.read_text()), path


def versions(path, conda):
    found = {}
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if hit := re.match(r"(?:- )?([a-z0-9-]+)==?([\d.]+)$", line):
            assert conda or "==" in line, line  # in environment.yml pip's own have two signs
            found[hit[1].replace("pytorch", "torch")] = hit[2]
    return found


def test_environment_and_requirements_hold_the_same_versions():
    pip, conda = (
        versions(ROOT / "requirements.txt", False),
        versions(ROOT / "environment.yml", True),
    )
    conda.pop("python")
    assert pip == conda and len(pip) > 15


# --- bad input ------------------------------------------------------------------------------------


def profile_with(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: smoke\nseeds: 1-1\n" + text)
    return str(path)


BAD = {
    "unknown profile": (
        ["--profile", "nonesuch"],
        "no profile 'nonesuch': expected one of compact",
    ),
    "unknown key": ("colour: red", "colour: Extra inputs are not permitted"),
    "unknown key inside": (
        "recipe: {learning_rate: 1}",
        "recipe.learning_rate: Unexpected keyword",
    ),
    "fraction outside": (
        "arms: [{name: a, method: freeze, options: {ranking: mse, fraction: 1.5}}]",
        "fraction 1.5: expected a number from 0 to 1",
    ),
    "unknown method": (
        "arms: [{name: a, method: hope}]",
        "no method 'hope'; expected one of ",
    ),
    "class the data lack": ("data: {classes: [[0, 1], [2, 77]]}", "has no images of class [77]"),
    "seeds": (["--profile", "smoke", "--seeds", "one"], "seeds 'one': expected numbers and ranges"),
    "missing data file": (
        ["--profile", "smoke", "--data", "nowhere.npz"],
        "no data file nowhere.npz",
    ),
    "unknown source": (["--profile", "smoke", "--data", "imagenet"], "no data source 'imagenet'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_ends_in_one_sentence(name, tmp_path, monkeypatch, capsys):
    given, sentence = BAD[name]
    monkeypatch.setenv("RESULTS", str(tmp_path))
    arguments = given if isinstance(given, list) else ["--profile", profile_with(tmp_path, given)]
    assert reproduce.main(["run", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1


def test_a_nan_loss_stops_the_notebook_with_its_sentence(tmp_path, tiny_npz):
    profile = profile_with(
        tmp_path, "recipe: {lr: 1.0e+30, epochs: 1, batch_size: 32}\narms: [{name: fine-tune}]"
    )
    images = tiny_npz(tmp_path / "tiny.npz", classes=10)
    arguments = ("run", "--profile", profile, "--data", images, "--only", "01")
    done = command(tmp_path, *arguments, WORKERS="1")  # of the notebook's own
    assert done.returncode == 1 and done.stderr.count("\n") <= 2
    assert "error: 01_train_task1, cell" in done.stderr and "lower the learning rate" in done.stderr
    assert not (tmp_path / "mine/01_train_task1/manifest.json").exists()


def test_a_truncated_checkpoint_is_named_and_nothing_is_lost(smoke, tmp_path, monkeypatch):
    shutil.copytree(smoke / "smoke", tmp_path / "smoke")
    monkeypatch.setenv("RESULTS", str(tmp_path))
    checkpoint = next((tmp_path / "smoke/runs/task1").glob("*.pt"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"\.pt is damaged .*delete it"):
        for seed in (1, 2):
            task1(load("smoke"), seed)
    assert len(list((tmp_path / "smoke/runs/run").glob("*.meta.json"))) == 10


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mount"), reason="needs the right to mount a small disk"
)
def test_a_full_disk_is_said_and_what_was_finished_stays(tmp_path, tiny_npz):
    images, disk = tiny_npz(tmp_path / "tiny.npz", classes=10), tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "lib.study", "--profile", "smoke"),
                *("--data", images, "--workers", "1"),
            ],
            cwd=ROOT,
            env={**os.environ, "RESULTS": str(disk)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (
            done.returncode == 1
            and "No space left" in done.stderr
            and str(disk) in done.stderr
            and "free some space" in done.stderr
            and "goes on from there" in done.stderr
        )
        for meta in disk.rglob("*.meta.json"):  # whatever counts as finished is whole
            product = next(
                p
                for p in meta.parent.glob(meta.name.removesuffix(".meta.json") + ".*")
                if p != meta
            )
            assert store.file_hash(product) == json.loads(meta.read_text())["sha256"]
        assert not list(disk.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", disk], check=True)
