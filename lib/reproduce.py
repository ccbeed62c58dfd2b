"""The command line: notebooks through papermill, the published record, figures again, the README's
numbers.

    python -m lib.reproduce run --profile quick          (make reproduce)
    python -m lib.reproduce publish --profile compact    (make publish PROFILE=compact)

It decides by the notebooks' manifests what is current and runs the rest; errors end in one sentence
and exit code 1. Knows nothing of what the notebooks do."""

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lib.notebook import NOTEBOOKS, is_current, manifest_path
from lib.profile import ROOT, Profile, load
from lib.store import JSON, file_hash, results_dir, write_atomically

PUBLISHED = ROOT / "results" / "published"
LARGEST = 1_000_000  # bytes of one published file
RECORDED = ("run", "task1_rows", "overlap")  # kinds of products small enough for the record


# --- running --------------------------------------------------------------------------------------


def run(profile: Profile, arguments: argparse.Namespace) -> None:
    """Run every notebook that is not current, in order; then the HTML report. A notebook that fails
    ends it."""
    wanted = [
        n for n in NOTEBOOKS if not arguments.only or n.startswith(tuple(arguments.only.split(",")))
    ]
    if not wanted:
        raise ValueError(
            f"--only {arguments.only}: no such notebook; expected numbers such as 03 of "
            f"{', '.join(NOTEBOOKS)}"
        )
    stale = [n for n in wanted if not is_current(n, profile)]
    if not stale:
        print(
            f"profile {profile.name}: all {len(wanted)} notebooks are current; results: "
            f"{results_dir(profile.name)}"
        )
        return
    from lib import products, study

    study.check(profile)
    products.tasks(
        profile, profile.seed_list[0]
    )  # missing or damaged data are told of before a notebook starts
    start = time.time()
    for notebook in wanted:
        if is_current(
            notebook, profile
        ):  # asked again: an earlier notebook's outputs may have changed
            print(f"{notebook}: current")
            continue
        _execute(notebook, profile, arguments)
    _report(profile)
    print(
        f"profile {profile.name}: done in {(time.time() - start) / 60:.1f} min; results in "
        f"{results_dir(profile.name)}, report/index.html first"
    )


def _execute(notebook: str, profile: Profile, arguments: argparse.Namespace) -> None:
    """One notebook through papermill, its output streamed; success is its manifest, not papermill's
    word."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    folder = results_dir(profile.name) / notebook
    folder.mkdir(parents=True, exist_ok=True)
    manifest_path(results_dir(profile.name), notebook).unlink(missing_ok=True)
    print(f"{notebook}: running", flush=True)
    parameters = {
        "profile": arguments.profile,
        "seeds": arguments.seeds or "",
        "data": arguments.data or "",
    }
    for attempt in (1, 2, 3):
        try:
            # the kernel talks through files, not ports: nothing to collide, nothing for others to
            # listen to
            with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
                talk = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/s"}})
                papermill.execute_notebook(
                    str(ROOT / "notebooks" / f"{notebook}.ipynb"),
                    str(folder / "notebook.ipynb"),
                    parameters,
                    kernel_name="python3",
                    cwd=str(ROOT),
                    progress_bar=False,
                    log_output=False,
                    stdout_file=sys.stdout,
                    stderr_file=sys.stderr,
                    coalesce_streams=True,
                    config=talk,
                )
            break
        except papermill.PapermillExecutionError as error:
            raise RuntimeError(
                f"{notebook}, cell {error.exec_count}: {error.ename}: {_one_line(error.evalue)}"
            ) from None
        except DeadKernelError:
            raise RuntimeError(
                f"{notebook}: its kernel was killed (out of memory?); what was finished is kept, "
                "the "
                "same command goes on from there"
            ) from None
        except (
            RuntimeError
        ) as error:  # on a busy machine a kernel can be too slow to answer at first
            if "Kernel" not in str(error) or attempt == 3:
                raise
            time.sleep(attempt)
    if not manifest_path(results_dir(profile.name), notebook).exists():
        raise RuntimeError(
            f"{notebook} ran to its end but wrote no manifest: its last cell must be "
            "session.finish()"
        )


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def _report(profile: Profile) -> None:
    """The executed notebooks as HTML and an index with the answer, figures and tables, in
    `report/`."""
    from nbconvert import HTMLExporter

    from lib.report import page

    results, exporter = results_dir(profile.name), HTMLExporter(exclude_input_prompt=True)
    for notebook in NOTEBOOKS:
        source = results / notebook / "notebook.ipynb"
        if source.exists():
            html, _ = exporter.from_filename(str(source))
            write_atomically(
                results / "report" / f"{notebook}.html", lambda p, html=html: p.write_text(html)
            )
    index = page(results, f"{profile.setting}: {profile.about}")
    write_atomically(results / "report" / "index.html", lambda p: p.write_text(index))


# --- the record -----------------------------------------------------------------------------------


def publish(profile: Profile, arguments: argparse.Namespace) -> None:
    """Copy rows, tables, figures and executed notebooks to results/published/<profile> (no
    checkpoints).

    Refuses unless all notebooks are current, and rows that were made from uncommitted code.
    """
    results, target = results_dir(profile.name), PUBLISHED / profile.name
    if stale := [n for n in NOTEBOOKS if not is_current(n, profile)]:
        raise ValueError(
            f"{', '.join(stale)} not current for seeds {profile.seeds}: run make reproduce "
            f"PROFILE={profile.name} SEEDS={profile.seeds} first"
        )
    lines: dict[str, list[str]] = {}
    for kind in RECORDED:
        for meta_path in sorted((results / "runs" / kind).glob("*.meta.json")):
            meta = json.loads(meta_path.read_text())
            if meta["dirty"]:
                raise ValueError(
                    f"{meta_path} was made from uncommitted code: commit, delete that product, "
                    "run again"
                )
            product = meta_path.with_name(meta_path.name.replace(".meta.json", ".json"))
            line = {"kind": kind, "name": product.name, "meta": meta, "product": JSON.load(product)}
            seed = meta["key"].get("seed", meta["key"].get("maps", {}).get("task1", {}).get("seed"))
            lines.setdefault(f"seed{seed}", []).append(json.dumps(line, sort_keys=True))
    files = {f"runs/{name}.jsonl": "\n".join(rows) + "\n" for name, rows in lines.items()}
    copies = [results / n / name for n in NOTEBOOKS for name in ("notebook.ipynb", "manifest.json")]
    for manifest in copies[
        1::2
    ]:  # what the notebooks made, not what an earlier version left beside it
        copies += [results / name for name in json.loads(manifest.read_text())["outputs"]]
    if large := [p.name for p in copies if p.stat().st_size > LARGEST]:
        raise ValueError(
            f"{', '.join(large)}: larger than {LARGEST:,} bytes, not published; make them smaller"
        )
    if target.exists():
        shutil.rmtree(target)
    for name, text in files.items():
        write_atomically(target / name, lambda p, text=text: p.write_text(text))
    for path in copies:
        copy = _without_paths if path.suffix == ".ipynb" else shutil.copyfile
        write_atomically(
            target / path.relative_to(results), lambda p, path=path, copy=copy: copy(path, p)
        )
    rows = sum(len(rows) for rows in lines.values())
    print(
        f"published {rows} products of {len(lines)} seeds, {len(copies)} tables, figures and "
        f"notebooks: {target}"
    )


def _without_paths(source: Path, target: Path) -> None:
    """Copy an executed notebook without the places on this machine that papermill notes in it."""
    notebook = json.loads(source.read_text())
    for name in ("input_path", "output_path"):
        notebook["metadata"].get("papermill", {}).pop(name, None)
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def restore(profile: Profile, arguments: argparse.Namespace) -> None:
    """Put published rows back into the store, so that this clone goes on where the record stops.
    Nothing that is already there is replaced."""
    source, shelf = PUBLISHED / profile.name / "runs", results_dir(profile.name) / "runs"
    packs = sorted(source.glob("*.jsonl"))
    if not packs:
        raise FileNotFoundError(
            f"nothing published for profile {profile.name}: expected {source}/*.jsonl"
        )
    back = there = 0
    for pack in packs:
        for number, line in enumerate(pack.read_text().splitlines(), 1):
            item = json.loads(line)
            path = shelf / item["kind"] / item["name"]
            meta = path.with_name(path.name.removesuffix(".json") + ".meta.json")
            if meta.exists():
                there += 1
                continue
            write_atomically(path, lambda p, item=item: JSON.save(item["product"], p))
            if file_hash(path) != item["meta"]["sha256"]:
                path.unlink()
                raise ValueError(
                    f"{pack}, line {number}: damaged (checksum differs); take the committed file "
                    "again"
                )
            write_atomically(meta, lambda p, item=item: JSON.save(item["meta"], p))
            back += 1
    print(
        f"restored {back} products of profile {profile.name} ({there} were there); "
        f"make reproduce PROFILE={profile.name} goes on from them"
    )


def compare(profile: Profile, arguments: argparse.Namespace) -> None:
    """A run here beside the published record: mean accuracies of each arm and how many rows agree
    to the last bit; also as tables/agreement.csv."""
    import pandas as pd

    mine, record = (
        folder / "tables" / "runs.csv"
        for folder in (results_dir(profile.name), PUBLISHED / profile.name)
    )
    for path in (mine, record):
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is not there: run make reproduce PROFILE={profile.name}, and have a "
                "published record of it"
            )
    both = [pd.read_csv(path) for path in (mine, record)]
    table = pd.concat(
        {
            name: df.groupby("arm", sort=False)[["acc1", "acc2"]]
            .mean()
            .assign(n=df.groupby("arm")["seed"].nunique())
            for name, df in zip(("here", "record"), both)
        },
        axis=1,
    )
    shared = both[0].merge(both[1], on=["arm", "seed"], suffixes=("", " in the record"))
    measures = ["lineage", "acc1", "acc2", "loss1", "acc1_train", "realised"]
    same = (
        shared[measures].to_numpy() == shared[[f"{m} in the record" for m in measures]].to_numpy()
    ).all(1)
    print(table.to_string(float_format="{:.3f}".format))
    print(
        f"{same.sum()} of {len(both[0])} rows here are in the record with the same checkpoint "
        "and accuracies"
    )
    apart = [(shared[m] - shared[f"{m} in the record"]).abs().max() for m in ("acc1", "acc2")]
    pd.DataFrame(
        [
            {
                "profile": profile.name,
                "rows here": len(both[0]),
                "in the record": len(shared),
                "the same to the last bit": same.sum(),
                "largest difference of acc1, points": 100 * apart[0],
                "of acc2": 100 * apart[1],
            }
        ]
    ).to_csv(mine.with_name("agreement.csv"), index=False)


# --- figures and words from tables ----------------------------------------------------------------


def redraw(profile: Profile, arguments: argparse.Namespace) -> None:
    """Draw the figures that come from tables again, without training; `--style` names a matplotlib
    style."""
    from lib import figures
    from lib.store import rows

    figures.use_style(arguments.style)
    drawn = figures.from_tables(lambda name: rows(profile.name, name))
    folder = results_dir(profile.name) / "figures"
    for name, figure in drawn.items():
        figures.save(figure, folder, name)
    print(f"drew {', '.join(drawn)} in {folder}")


def readme(profile: Profile, arguments: argparse.Namespace) -> None:
    """Write the generated parts of README.md, each between its two marks, from the published
    tables."""
    from lib.report import in_readme

    path = ROOT / "README.md"
    text = in_readme(path.read_text(), PUBLISHED)
    write_atomically(path, lambda p: p.write_text(text))
    print("README.md: results, costs and speed written from the published tables")


COMMANDS = {
    "run": run,
    "publish": publish,
    "restore": restore,
    "compare": compare,
    "figures": redraw,
    "readme": readme,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """See the head of this module. Exit code 0, or 1 after one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m lib.reproduce")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "--profile", default="quick", help="a name in profiles/, or the path of a .yaml file"
    )
    parser.add_argument("--seeds", help="such as 1-5; the profile's own if not given")
    parser.add_argument("--data", help="a data source in place of the profile's (see lib.data)")
    parser.add_argument("--only", help="numbers of the notebooks to run, such as 04,05")
    parser.add_argument("--style", help="a matplotlib style for figures")
    given = parser.parse_args(arguments)
    os.environ["PYTHONUNBUFFERED"] = "1"
    try:
        COMMANDS[given.command](load(given.profile, given.seeds, given.data), given)
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what was finished is kept, the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC and "free some space" not in str(error)
        more = (
            ": free some space; what was finished is kept, the same command goes on from there"
            if full
            else ""
        )
        print(f"error: {_one_line(error)}{more}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
