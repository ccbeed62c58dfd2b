"""Notebooks through papermill: those that are not current, in order, then the HTML report."""

import argparse
import sys
import tempfile
import time

from lib.report.session import NOTEBOOKS, is_current, manifest_path
from lib.reproduce.report import of_run
from lib.study.profile import ROOT, Profile
from lib.study.store import results_dir


def one_line(text: object) -> str:
    """Text without line breaks."""
    return " ".join(str(text).split())


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
    from lib.study import arms, materials

    arms.check(profile)
    # missing or damaged data are told of before a notebook starts
    materials.tasks(profile, profile.seed_list[0])
    start = time.time()
    for notebook in wanted:
        # asked again: an earlier notebook's outputs may have changed
        if is_current(notebook, profile):
            print(f"{notebook}: current")
            continue
        _execute(notebook, profile, arguments)
    of_run(profile)
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
                f"{notebook}, cell {error.exec_count}: {error.ename}: {one_line(error.evalue)}"
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
