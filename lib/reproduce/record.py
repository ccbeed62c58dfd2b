"""The published record: into it, back from it, and a run here beside it."""

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd

from lib.report.session import NOTEBOOKS, is_current
from lib.study.keys import seed_in
from lib.study.profile import ROOT, Profile
from lib.study.store import JSON, file_hash, results_dir, write_atomically

PUBLISHED = ROOT / "results" / "published"
LARGEST = 1_000_000  # bytes of one published file


def recorded() -> list[str]:
    """Kinds of products that are published."""
    from lib.study.jobs import PRODUCTS  # where the table is whole

    return [kind for kind, product in PRODUCTS.items() if product.published]


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
    for kind in recorded():
        for meta_path in sorted((results / "runs" / kind).glob("*.meta.json")):
            meta = json.loads(meta_path.read_text())
            if meta["dirty"]:
                raise ValueError(
                    f"{meta_path} was made from uncommitted code: commit, delete that product, "
                    "run again"
                )
            product = meta_path.with_name(meta_path.name.replace(".meta.json", ".json"))
            line = {"kind": kind, "name": product.name, "meta": meta, "product": JSON.load(product)}
            lines.setdefault(f"seed{seed_in(meta['key'])}", []).append(
                json.dumps(line, sort_keys=True)
            )
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
