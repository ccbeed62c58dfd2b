"""The published record: into it, back from it, and a run here beside it."""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from lib.report.session import NOTEBOOKS, is_current, note_executed, read_manifest
from lib.study.keys import seed_in
from lib.study.profile import ROOT, Profile
from lib.study.store import (
    JSON,
    Store,
    file_hash,
    holding,
    product_name,
    put_right,
    read_table,
    replacing,
    results_dir,
    sweep,
    write_atomically,
)

PUBLISHED = ROOT / "results" / "published"
LARGEST = 1_000_000  # bytes of one published file
OWN = ("tuning", "readings", "recipes")  # tables of the command line, which no notebook's stamp has


def recorded() -> list[str]:
    """Kinds of products that are published."""
    from lib.study.jobs import PRODUCTS  # where the table is whole

    return [kind for kind, product in PRODUCTS.items() if product.published]


def publish(profile: Profile, arguments: argparse.Namespace) -> None:
    """Copy rows, tables, figures and executed notebooks to results/published/<profile> (no
    checkpoints). The new record is made whole beside the old one, which it then replaces.

    Refuses unless all notebooks are current, and rows that were made from uncommitted code. With
    `--rows` only the rows are copied, beside what the record has: of a run that still goes on.
    """
    results, target = results_dir(profile.name), PUBLISHED / profile.name
    if arguments.rows:
        return _publish_rows(results, target)
    with holding(results):
        if stale := [n for n in NOTEBOOKS if not is_current(n, profile)]:
            raise ValueError(
                f"{', '.join(stale)} not current for seeds {profile.seeds}: run make reproduce "
                f"{profile.asked} SEEDS={profile.seeds} first"
            )
        packs, copies = _packs(results), _copies(results)
        sweep(PUBLISHED, deep=False)
        with replacing(target) as new:
            for seed, lines in packs.items():
                text = "\n".join(lines) + "\n"
                write_atomically(new / f"runs/{seed}.jsonl", lambda p, t=text: p.write_text(t))
            for path in copies:
                copy = _without_paths if path.suffix == ".ipynb" else shutil.copyfile
                place = new / path.relative_to(results)
                write_atomically(place, lambda p, path=path, copy=copy: copy(path, p))
            for name in NOTEBOOKS:  # of the published copy, which names no place
                note_executed(new, name)
    rows = sum(map(len, packs.values()))
    print(
        f"published {rows} products of {len(packs)} seeds, {len(copies)} tables, figures and "
        f"notebooks: {target}"
    )


def _publish_rows(results: Path, target: Path) -> None:
    """Seeds of which rows are there; their packs replace those of the record."""
    packs = _packs(results)
    for seed, lines in packs.items():
        text = "\n".join(lines) + "\n"
        write_atomically(target / f"runs/{seed}.jsonl", lambda p, t=text: p.write_text(t))
    rows = sum(map(len, packs.values()))
    print(f"published {rows} products of {len(packs)} seeds: {target / 'runs'}")


def _packs(results: Path) -> dict[str, list[str]]:
    """One line of JSON for each product to publish, by seed; ValueError for one that is damaged or
    was made from uncommitted code, and for an arm with pairs on two checkpoints of a seed."""
    from lib.study import arms  # torch and all, which other commands do without

    shelf, packs = Store(results / "runs"), {}
    arms.check_one_checkpoint([meta for _, meta in shelf.metas("run")])
    for kind in recorded():
        for path, meta in shelf.metas(kind):
            if meta["dirty"]:
                why = "from code whose commit is unknown (no git, or no repository of its own)"
                if meta["commit"] != "unknown":
                    why = "from uncommitted code"
                raise ValueError(f"{path} was made {why}: commit, delete that product, run again")
            line = {"kind": kind, "name": path.name, "meta": meta, "product": shelf.read(path)}
            pack = packs.setdefault(f"seed{seed_in(meta['key'])}", [])
            pack.append(json.dumps(line, sort_keys=True))
    return packs


def _copies(results: Path) -> list[Path]:
    """The files to publish beside rows: what the notebooks made, not what an earlier version left
    beside it; ValueError if one is too large."""
    copies = [results / n / name for n in NOTEBOOKS for name in ("notebook.ipynb", "manifest.json")]
    for name in NOTEBOOKS:
        copies += [results / output for output in read_manifest(results, name)["outputs"]]
    own = [results / "tables" / f"{name}.csv" for name in OWN]
    copies += [p for p in own if p.exists()]
    if large := [p.name for p in copies if p.stat().st_size > LARGEST]:
        raise ValueError(
            f"{', '.join(large)}: larger than {LARGEST:,} bytes, not published; make them smaller"
        )
    return copies


def _without_paths(source: Path, target: Path) -> None:
    """Copy an executed notebook without the places on this machine that papermill notes in it."""
    notebook = json.loads(source.read_text())
    for name in ("input_path", "output_path"):
        notebook["metadata"].get("papermill", {}).pop(name, None)
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def restore(profile: Profile, arguments: argparse.Namespace) -> None:
    """Put published rows back into the store, so that this clone goes on where the record stops.
    Nothing that is already there is replaced."""
    put_right(PUBLISHED / profile.name)
    source, shelf = PUBLISHED / profile.name / "runs", results_dir(profile.name) / "runs"
    packs = sorted(source.glob("*.jsonl"))
    if not packs:
        raise FileNotFoundError(
            f"nothing published for profile {profile.name}: expected {source}/*.jsonl"
        )
    items = [item for pack in packs for item in _items(pack)]  # all are sound before one is written
    back = 0
    for item in items:
        path = shelf / item["kind"] / item["name"]
        meta = path.with_name(path.name.removesuffix(".json") + ".meta.json")
        if not meta.exists():
            write_atomically(path, lambda p, item=item: JSON.save(item["product"], p))
            write_atomically(meta, lambda p, item=item: JSON.save(item["meta"], p))
            back += 1
    print(
        f"restored {back} products of profile {profile.name} ({len(items) - back} were there); "
        f"make reproduce {profile.asked} goes on from them"
    )


def _items(pack: Path) -> list[dict]:
    """The products in a file of published rows. Place and name must be what the key says, and the
    product what its checksum says: else ValueError, with the line."""
    items = []
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "product")
        for number, line in enumerate(pack.read_bytes().splitlines(), 1):
            try:
                item = json.loads(line)
                kind, meta = item["kind"], item["meta"]
                why = ""
                if kind not in recorded() or (kind, item["name"]) != (
                    meta["kind"],
                    product_name(meta),
                ):
                    why = f"{kind}/{item['name']} is not what its key says"
                else:
                    JSON.save(item["product"], written)
                    why = "checksum differs" * (file_hash(written) != meta["sha256"])
            except (ValueError, KeyError, TypeError) as error:
                why = f"not a published row: {type(error).__name__} {error}"
            if why:
                raise ValueError(
                    f"{pack}, line {number}: damaged ({why}); take the committed file again, "
                    "nothing was restored"
                )
            items.append(item)
    return items


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
                f"{path} is not there: run make reproduce {profile.asked}, and have a "
                "published record of it"
            )
    # text: of digits alone, one table's lineages would be numbers
    both = [read_table(path).astype({"lineage": str}) for path in (mine, record)]
    table = pd.concat({name: _by_arm(df) for name, df in zip(("here", "record"), both)}, axis=1)
    found = _agreement(*both)
    print(table.to_string(float_format="{:.3f}".format))
    print(
        f"{found['the same to the last bit']} of {found['rows here']} rows here are in the record "
        "with the same checkpoint and accuracies"
    )
    row = {"profile": profile.name, **found}
    pd.DataFrame([row]).to_csv(mine.with_name("agreement.csv"), index=False)


def _by_arm(runs: pd.DataFrame) -> pd.DataFrame:
    """arm -> mean accuracies over its seeds, and n of them."""
    arms = _by_seed(runs).groupby("arm", sort=False)
    return arms.mean().assign(n=arms.size())


def _by_seed(runs: pd.DataFrame) -> pd.DataFrame:
    """(arm, seed) -> accuracies, the mean over lineages where a seed has started from several
    checkpoints."""
    return runs.groupby(["arm", "seed"], sort=False)[["acc1", "acc2"]].mean()


def _agreement(here: pd.DataFrame, record: pd.DataFrame) -> dict[str, float]:
    """How many rows here have a partner in the record, how many of these are the same, and how far
    they are apart at most. A row's partner is that of its own checkpoint; rows that have none on
    either side are set beside each other by arm and seed."""
    run, measures = ["arm", "seed", "lineage"], ["acc1", "acc2", "loss1", "acc1_train", "realised"]
    pairs = here.merge(record, on=run, suffixes=("", " in the record"))
    there = pairs[[f"{m} in the record" for m in measures]].set_axis(measures, axis=1)
    apart, paired = pairs[measures] - there, pairs.set_index(run).index
    mine, others = (df[~df.set_index(run).index.isin(paired)] for df in (here, record))
    by_seed = _by_seed(mine), _by_seed(others)
    matched = mine.set_index(["arm", "seed"]).index.isin(by_seed[1].index)
    largest = pd.concat([apart[["acc1", "acc2"]], by_seed[0] - by_seed[1]]).abs().max()
    return {
        "rows here": len(here),
        "in the record": len(pairs) + matched.sum(),
        "the same to the last bit": (pairs[measures].to_numpy() == there.to_numpy()).all(1).sum(),
        "largest difference of acc1, points": 100 * largest["acc1"],
        "of acc2": 100 * largest["acc2"],
    }
