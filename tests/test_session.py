"""What a notebook's outputs depend on: the code of every package, and its numbered place."""

import shutil

import pytest

from lib.report import session
from lib.study.profile import ROOT, load
from lib.study.store import read_table


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of lib that `code_hash` looks at."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(session, "ROOT", tmp_path)
    return tmp_path / "lib"


def test_code_hash_sees_packages_within_packages(copy):
    hashes = [session.code_hash()]
    (copy / "report/statistics.py").write_text("ALPHA = 0.1\n")
    hashes.append(session.code_hash())
    (copy / "one/two").mkdir(parents=True)
    (copy / "one/two/three.py").write_text("x = 1\n")
    hashes.append(session.code_hash())
    (copy / "one/two/three.py").rename(copy / "one/three.py")  # a file elsewhere is another file
    hashes.append(session.code_hash())
    assert len(set(hashes)) == 4


def test_code_hash_is_blind_to_comments_docstrings_and_editors_copies(copy):
    before, path = session.code_hash(), copy / "report/claims.py"
    text = path.read_text()
    path.write_text(
        text.replace('"""fine', '"""Fine').replace('"""acc1 before', '"""Loss:') + "# x\n"
    )
    (copy / ".ipynb_checkpoints").mkdir()
    (copy / ".ipynb_checkpoints/x.py").write_text("x = 1\n")
    (copy / "report/.hidden.py").write_text("x = 1\n")
    assert path.read_text() != text and session.code_hash() == before


def test_notebooks_are_those_of_the_folder_in_order():
    assert list(session.NOTEBOOKS) == sorted(session.NOTEBOOKS) and len(session.NOTEBOOKS) >= 5
    assert set(session.NOTEBOOKS) == {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}


def test_a_notebook_reads_the_published_tables_where_nothing_was_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    fresh = session.begin("05_compare_baselines", "compact")
    published = read_table(ROOT / "results/published/compact/tables/runs.csv")
    assert fresh.read("runs").equals(published) and len(fresh.read("overlap"))
    assert capsys.readouterr().out.count("tables are the published ones") == 1
    # a run of one's own is not mixed with them
    (tmp_path / "compact/tables").mkdir(parents=True)
    published[:3].to_csv(tmp_path / "compact/tables/runs.csv", index=False)
    assert len(fresh.read("runs")) == 3
    with pytest.raises(FileNotFoundError, match="overlap.csv.*make reproduce PROFILE=compact"):
        fresh.read("overlap")


def test_a_manifest_names_the_code_that_was_there_when_its_notebook_began(
    copy, tmp_path, monkeypatch
):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    notebook, profile = session.NOTEBOOKS[1], load("smoke")
    begun = session.Session(notebook, profile)
    (copy / "report/statistics.py").write_text("ALPHA = 0.1\n")  # edited while it runs
    begun.finish()
    manifest = session.read_manifest(begun.results, notebook)
    assert manifest["inputs"]["code"] != session.code_hash()
    assert not session.is_current(notebook, profile)
