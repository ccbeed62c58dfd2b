"""The house as ARCHITECTURE.md draws it: arrows point downwards, no circle, no torch in the report;
formatted and linted as an editor does it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"": 0, "study": 1, "report": 2, "reproduce": 3}  # folders of lib, from the ground up


def floor_of(room: str) -> int:
    """lib.study.arms -> 1; lib.methods.freeze -> 0."""
    return FLOORS.get((room.split(".") + [""])[1], 0)


def rooms() -> dict[str, Path]:
    """Every module of lib by its dotted name."""
    found = {}
    for path in sorted((ROOT / "lib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: set[str], everywhere: bool = True) -> set[str]:
    """Modules of lib that a file imports; everywhere: inside its functions too."""
    tree, found = ast.parse(path.read_text()), set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (deeper & known) or {node.module}
    return found & known


def test_no_arrow_points_up():
    known = rooms()
    wrong = [
        (room, other)
        for room, path in known.items()
        for other in imports(path, set(known))
        if floor_of(other) > floor_of(room)
    ]
    assert not wrong
    assert len(known) > 40 and {floor_of(room) for room in known} == set(FLOORS.values())


def test_no_circle():
    known = rooms()
    # a package's face only hands names on: a circle through it is one through its rooms
    arrows = {room: imports(path, set(known), everywhere=False) for room, path in known.items()}

    def reach(room: str, seen: tuple[str, ...]) -> None:
        assert room not in seen, " -> ".join((*seen, room))
        for other in arrows[room]:
            if not other.startswith(f"{room}.") and not room.startswith(f"{other}."):
                reach(other, (*seen, room))

    for room in known:
        reach(room, ())


def test_the_report_and_profiles_need_no_torch():
    light = [room for room in rooms() if room.startswith("lib.report")]
    code = (
        "import importlib, sys\n"
        f"for room in {[*light, 'lib.study.profile', 'lib.study.store', 'lib.study.keys']}:\n"
        "    importlib.import_module(room)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("check", [["format", "--check"], ["check"]])
def test_formatted_and_linted(check):
    ruff = Path(sys.executable).with_name("ruff")
    command = [str(ruff) if ruff.exists() else "ruff", *check, "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
