"""Tables and arrays -> matplotlib figures. No torch, no reading of files.

    looks = looks_of(arms)                  # arms.csv: what an arm is called, its family, its order
    figure = plane(runs, arms, trajectory)

No figure knows a ranking by name: colours follow the families of the table of arms, labels and
order are its own. Colours are Okabe and Ito's (distinguishable with any colour vision) and shades
of them; every label also has a marker of its own. In a dark style lines and words turn light."""

from collections.abc import Callable, Collection

import pandas as pd
from matplotlib.figure import Figure

from lib.report.beside import beside_methods
from lib.report.figures.against_chance import chance_differences, forest
from lib.report.figures.curves import (
    classes_of_task,
    learning_curves,
    of_budget_rules,
    over_epochs,
    overlap_bars,
    per_class,
    realised_fractions,
    shown_over_epochs,
)
from lib.report.figures.examined import (
    atlas,
    choices,
    grafts,
    of_examined,
    readouts,
    reliability,
    sanity,
)
from lib.report.figures.pictures import (
    image_grid,
    matrix,
    of_class_choices,
    of_class_maps,
    overlay,
    score_heat_map,
)
from lib.report.figures.style import (
    DPI,
    caption,
    described,
    flattened,
    looks_of,
    named,
    pictured,
    save,
    shrunk,
    use_style,
)
from lib.report.figures.tradeoff import methods, plane, retained_arms
from lib.report.statistics import beside_paper

__all__ = [
    "DPI",
    "atlas",
    "caption",
    "choices",
    "chance_differences",
    "described",
    "flattened",
    "forest",
    "from_tables",
    "grafts",
    "image_grid",
    "learning_curves",
    "looks_of",
    "matrix",
    "methods",
    "named",
    "of_budget_rules",
    "of_class_choices",
    "of_class_maps",
    "of_examined",
    "over_epochs",
    "overlap_bars",
    "overlay",
    "per_class",
    "plane",
    "readouts",
    "realised_fractions",
    "reliability",
    "retained_arms",
    "sanity",
    "save",
    "pictured",
    "shrunk",
    "score_heat_map",
    "shown_over_epochs",
    "use_style",
]


def from_tables(
    read: Callable[[str], pd.DataFrame], but: Collection[str] = ()
) -> dict[str, Figure]:
    """Every figure that needs tables only, by name, but for those named. `read(name)` gives a
    table; missing ones leave their figure out. Raises FileNotFoundError for a record older than the
    tables of arms and rankings, which say what things are called."""

    def table(name):
        try:
            return read(name)
        except FileNotFoundError:
            return pd.DataFrame()

    runs, accuracy = table("runs"), table("accuracy")
    overlap, arms, rankings = table("overlap"), table("arms"), table("rankings")
    for rows, needed, name in ((runs, arms, "arms"), (overlap, rankings, "rankings")):
        if len(rows) and needed.empty:
            profile = f" PROFILE={runs['profile'].iloc[0]}" if len(runs) else ""
            raise FileNotFoundError(
                f"no table {name}.csv, which gives figures their labels, beside tables that need "
                f"it: an older record; make it with `make reproduce{profile}`"
            )
    words = caption(runs) if len(runs) else ""
    classes = classes_of_task(table("per_class"))
    comparable = beside_paper(runs)
    maps = table("class_maps")  # of the seed the notebooks show
    shown = ("", 0)
    if len(runs) and len(maps):
        first = runs.iloc[0]
        shown = named(first["profile"], first["setting"]), maps["seed"].iloc[0]
    drawn = {}
    for name, source, draw in (
        (
            "learning_curves",
            table("accuracy_task1"),
            lambda t: learning_curves(t, words, comparable, classes),
        ),
        ("per_class", table("per_class"), lambda t: per_class(t, words)),
        (
            "overlap",
            overlap,
            lambda t: overlap_bars(t, rankings, 0.5, f"{words}; bars: mean, dots: seeds"),
        ),
        ("over_epochs", accuracy, lambda t: over_epochs(runs, t, arms)),
        ("retained", runs, lambda t: retained_arms(t, arms, classes or 10)),
        ("methods", beside_methods(runs) if len(runs) else runs, lambda t: methods(runs, arms)),
        ("plane", runs, lambda t: plane(t, arms, table("trajectory"), comparable)),
        ("forest", chance_differences(runs) if len(runs) else runs, lambda t: forest(runs)),
        (
            "class_map_correlation",
            table("class_map_correlation"),
            lambda t: of_class_maps(t, *shown),
        ),
        ("class_overlap", table("class_overlap"), lambda t: of_class_choices(t, *shown)),
        ("realised", table("realised"), lambda t: of_budget_rules(t, *shown)),
        *(
            (name, table(name), lambda t, draw=draw: draw(t, of_examined(runs, t)))
            for name, draw in (("atlas", atlas), ("readouts", readouts), ("grafts", grafts))
        ),
        (
            "reliability",
            table("reliability"),
            lambda t: reliability(t, of_examined(runs, t), table("noise_reliability")),
        ),
        (
            "choices",
            table("choices"),
            lambda t: choices(t, table("atlas"), of_examined(runs, t)),
        ),
        (
            "sanity",
            table("randomisation"),
            lambda t: sanity(t, table("deletion"), table("alike"), of_examined(runs, t)),
        ),
    ):
        if len(source) and name not in but:
            drawn[name] = draw(source)
    return drawn
