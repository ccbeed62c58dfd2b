"""Does the record follow from its own rows, by today's code?

    make verify PROFILE=compact              # every table and figure that comes from tables
    make verify PROFILE=compact WRITE=1      # and put right what does not

Rows and executed notebooks are what was measured, and are never written here.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from lib.report import beside, claims, figures, power, readings, statistics, words
from lib.reproduce.record import PUBLISHED, restore
from lib.study.profile import Profile
from lib.study.store import as_written, read_table, with_parts, write_atomically

# tables of all seeds that `lib.study.tables` makes from published products
PER_SEED = ("task1", "accuracy_task1", "per_class", "pairings", "overlap")
Read = Callable[[str], pd.DataFrame]
# tables of notebook 06 that others are made from; a record may have none
FROM_EXAMINED = ("atlas", "reliability")


def derived(read: Read, profile: Profile) -> dict[str, pd.DataFrame]:
    """The tables that follow from other tables: what notebook 05 writes, and the claims of 06."""
    classes = words.classes_per_task(profile)
    runs, accuracy, trajectory, overlap = map(read, ("runs", "accuracy", "trajectory", "overlap"))
    atlas, reliability = (read(name) for name in ("atlas", "reliability"))
    more = {}
    if len(atlas) and len(reliability):  # of notebook 06
        more["claims_examined"] = claims.examined(runs, atlas, reliability)
    if len(methods := beside.beside_methods(runs)):
        more["methods"] = methods
    return {
        **more,
        "summary": statistics.summary(runs, classes),
        "claims": claims.claims(runs, accuracy, trajectory, overlap, classes),
        "paper_tables": words.paper_tables(runs),
        "power": power.table(runs),
    }


def from_rows(profile: Profile) -> dict[str, pd.DataFrame]:
    """The tables that follow from published rows, which are put back into a store of their own:
    what notebooks 01, 03 and 04 write of all seeds, and 06 of those examined."""
    from lib.study import examined, tables, tuning
    from lib.study.arms import rankings_table
    from lib.study.products import PRODUCTS

    with _own_results():
        restore(profile, argparse.Namespace())
        found = tables.collect(profile)
        whole = [  # a run that still goes on has published some of its seeds
            str(seed)
            for seed in profile.seed_list
            if all(PRODUCTS[kind].there(profile, seed) for kind in ("task1_rows", "overlap"))
        ]
        for name in PER_SEED if whole else ():
            some = profile.model_copy(update={"seeds": ",".join(whole)})
            found[name] = getattr(tables, name)(some)
        found |= examined.tables(profile)
        if profile.tuning.grids and (tuned := tuning.table(profile)):
            found["tuning"] = tuned
    found["rankings"] = rankings_table(profile)
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


def of_grid(profile: Profile) -> dict[str, pd.DataFrame]:
    """The two tables of a grid of readings, from published rows likewise: it has no others."""
    from lib.study import readings as grid

    with _own_results():
        restore(profile, argparse.Namespace())
        found = {"readings": grid.table(profile), "recipes": grid.recipes_table(profile)}
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


@contextmanager
def _own_results() -> Iterator[None]:
    """Results go to a temporary folder inside."""
    before = os.environ.get("RESULTS")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RESULTS"] = folder
        try:
            yield
        finally:
            os.environ.pop("RESULTS")
            if before is not None:
                os.environ["RESULTS"] = before


def made_anew(profile: Profile, folder: Path) -> dict[Path, bytes]:
    """What the record of a profile holds by today's code: path -> bytes, only of files that are
    there or that follow from rows."""
    tables = of_grid(profile) if profile.readings.recipes else from_rows(profile)

    def read(name: str) -> pd.DataFrame:
        if name in tables:  # as a reader of the file sees it
            return _through_csv(tables[name])
        path = folder / "tables" / f"{name}.csv"
        if name in FROM_EXAMINED and not path.exists():  # an older record
            return pd.DataFrame()
        return read_table(path)

    if "runs" in tables:
        tables |= derived(read, profile)
    files = {Path("tables", f"{name}.csv"): _csv(table) for name, table in tables.items()}
    figures.use_style()
    with tempfile.TemporaryDirectory() as drawn:
        for name, figure in {**figures.from_tables(read), **readings.from_tables(read)}.items():
            for path in figures.save(figure, Path(drawn), name):
                files[Path("figures", path.name)] = path.read_bytes()
    return files


def _csv(table: pd.DataFrame) -> bytes:
    return as_written(table).encode()


def _through_csv(table: pd.DataFrame) -> pd.DataFrame:
    from io import BytesIO

    if table.empty:
        return pd.DataFrame()
    return with_parts(pd.read_csv(BytesIO(_csv(table)), keep_default_na=False, na_values=[""]))


def verify(profile: Profile, arguments: argparse.Namespace) -> None:
    """Compare every table and figure of the published record with what its rows give by today's
    code, byte for byte; `--write` puts right what differs. RuntimeError names what still does."""
    folder = PUBLISHED / profile.name
    differ = []
    for path, content in made_anew(profile, folder).items():
        place = folder / path
        same = place.is_file() and place.read_bytes() == content
        print(f"{'follows' if same else 'DIFFERS'}  {path}")
        if not same and arguments.write:
            write_atomically(place, lambda p, content=content: p.write_bytes(content))
        elif not same:
            differ.append(str(path))
    if differ:
        raise RuntimeError(
            f"{len(differ)} files of the record of {profile.name} do not follow from its rows by "
            f"today's code: {', '.join(differ)}; make verify {profile.asked} WRITE=1 makes "
            "them anew"
        )
