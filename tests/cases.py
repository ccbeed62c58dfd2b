"""The table of bad inputs (cases.yaml): what each is given, and what is wrong with an answer.

for case in CASES:
    arguments, environment = prepare(case, folder)
    wrong(case, folder, code, error)           # [] if it ended in its sentence
"""

from pathlib import Path

import numpy as np
import yaml

CASES = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text())
WORDS = {"case", "file", "profile", "text", "given", "env", "run", "exit", "words", "absent"}


def _npz(path: Path, **changed) -> None:
    x, y = np.zeros((400, 32, 32, 3), np.uint8), np.arange(400) % 10
    np.savez(path, **{"x_train": x, "y_train": y, "x_test": x, "y_test": y, **changed})


def _bomb(folder: Path) -> None:
    from PIL import Image

    (folder / "pictures/cat").mkdir(parents=True)
    Image.new("1", (20000, 20000)).save(folder / "pictures/cat/big.png")


def _cifar_cut(folder: Path) -> None:
    (folder / "cifar-100-python").mkdir()
    (folder / "cifar-100-python/train").write_bytes(b"half")


GIVEN = {  # `given` of a case -> what lies in its folder
    "latin1": lambda folder: (folder / "mine.yaml").write_bytes("about: größer\n".encode("latin1")),
    "cifar_cut": _cifar_cut,
    "far_label": lambda folder: _npz(folder / "far.npz", y_test=np.arange(400) * 0 + 10**9),
    "no_pixels": lambda folder: _npz(
        folder / "empty.npz",
        x_train=np.zeros((400, 0, 0, 3), np.uint8),
        x_test=np.zeros((400, 0, 0, 3), np.uint8),
    ),
    "class_none": lambda folder: _npz(
        folder / "none.npz", fine_label_names=np.array([*"abc", "None", *"defghi"])
    ),
    "bomb": _bomb,
    "file": lambda folder: (folder / "file").write_text("a file"),
}


def _filled(text: str, case: dict, folder: Path) -> str:
    profile = folder / case.get("file", "mine.yaml")
    return text.replace("{tmp}", str(folder)).replace("{profile}", str(profile))


def prepare(case: dict, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Lay out what a case is given in an empty folder: (arguments of lib.reproduce, environment).
    ValueError for a word in the table that nobody reads."""
    if unread := set(case) - WORDS:
        raise ValueError(f"case {case['case']!r}: nobody reads {', '.join(sorted(unread))}")
    if "given" in case:
        GIVEN[case["given"]](folder)
    elif "{profile}" in case["run"]:
        usual = "extends: smoke\nseeds: 1\n" + case.get("profile", "")
        (folder / case.get("file", "mine.yaml")).write_text(case.get("text", usual))
    environment = {"RESULTS": "{tmp}/results", **case.get("env", {})}
    return (
        [_filled(word, case, folder) for word in case["run"]],
        {name: _filled(value, case, folder) for name, value in environment.items()},
    )


def wrong(case: dict, folder: Path, code: int, error: str) -> list[str]:
    """What is wrong with how a case ended: its exit code, what it wrote to standard error, and what
    it left in the folder."""
    lacking = [w for w in case["words"] if _filled(w, case, folder) not in error]
    left = [p for p in case.get("absent", []) if Path(_filled(p, case, folder)).exists()]
    one = error.startswith("error: ") and error.count("\n") == 1
    return [
        *([f"exit code {code}"] if code != case["exit"] else []),
        *(["not one sentence"] if not one or "expected never to be seen" in error else []),
        *(f"no word of {w}" for w in lacking),
        *(f"left {p}" for p in left),
        *(["trained before it looked"] if list(folder.rglob("runs")) else []),
    ]
