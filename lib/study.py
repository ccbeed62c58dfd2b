"""An arm of a seed from checkpoint to rows; many of them side by side; resuming.

    payload = run(arm, seed, profile)             # {"row": {...}, "accuracy": [...], ...}, made once
    fulfil(jobs(profile, "run"), workers=2)       # everything still missing, in processes of one thread each
    python -m lib.study --profile paper --seeds 1-10 --shard 2/4

Everything heavy goes through the store: what a killed run had finished is never made again.
"""

import argparse
import errno
import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from lib import data as data_room
from lib import examination, ranking, saliency, visualization
from lib.data import Task
from lib.keys import SCIENCE, digest, seed_of
from lib.methods import METHODS, Context, RecordPath, frozen_fraction
from lib.network import VGG, conv_layers, vgg16
from lib.profile import FIRST_TUNING_SEED, ROOT, Profile, load, parse_seeds
from lib.ranking import RANKINGS, Evidence
from lib.store import FileType, Store, results_dir
from lib.training import confusion, default_device, evaluate, fit, measure

FRACTIONS = (0.25, 0.5, 0.75)  # at which choices of filters are compared
NO_LINEAGE = "scratch"  # arms that start from no checkpoint
SIGHTLESS = {"random"}  # rankings that look at no map: their runs do not depend on how maps are made
REFERENCES = ("finetune", "random")  # run again on a new checkpoint, so that new arms have something to pair with


class Arm(NamedTuple):
    """One way to go from the task-1 checkpoint to the end of the last round: one line of a profile."""

    name: str
    method: str = "finetune"
    options: Mapping[str, Any] = MappingProxyType({})
    curriculum: str = "sequence"  # or joint20, joint10, last
    seeds: str | None = None


def arms(profile: Profile) -> list[Arm]:
    """The profile's arms in order."""
    return [Arm(a.name, a.method, dict(a.options), a.curriculum, a.seeds) for a in profile.arms]


def check(profile: Profile) -> None:
    """Raise ValueError, one sentence, if an arm names an unknown method, option, ranking or value."""
    for arm in arms(profile):
        if arm.method not in METHODS:
            raise ValueError(f"arm {arm.name!r}: no method {arm.method!r}; expected one of {', '.join(METHODS)}")
        ranking = arm.options.get("ranking", "random")
        if not isinstance(ranking, str) or ranking not in RANKINGS:
            raise ValueError(f"arm {arm.name!r}: no ranking {ranking!r}; expected one of {', '.join(RANKINGS)}")
        try:
            METHODS[arm.method](**arm.options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"arm {arm.name!r}, method {arm.method}, options {dict(arm.options)}: {error}") from None


# --- data, tasks, networks ----------------------------------------------------------------------------------------

@lru_cache(maxsize=2)
def _images(source: str, size: int) -> data_room.Images:
    return data_room.load(source, data_root(), size)


def data_root() -> Path:
    """Where downloaded data lie: $DATA_ROOT if set, else data/ in the project."""
    return Path(os.environ.get("DATA_ROOT") or ROOT / "data")


def images(profile: Profile) -> data_room.Images:
    """The profile's data set, at the network's size, in this process's memory once."""
    return _images(profile.data.source, profile.network.image_size)


@lru_cache(maxsize=4)
def _tasks(profile: Profile, seed: int, device: str) -> tuple[tuple[Task, ...], str]:
    pictures = images(profile)
    draw = profile.data.draw
    classes = profile.data.classes or data_room.draw_classes(len(pictures.names), draw.tasks, draw.classes, seed)
    split = data_room.split_tasks(pictures, classes, profile.network.heads)
    on_device = tuple(t._replace(x=t.x.to(device), y=t.y.to(device), x_test=t.x_test.to(device),
                                 y_test=t.y_test.to(device), mean=t.mean.to(device), std=t.std.to(device))
                      for t in split)
    return on_device, data_room.checksum(split)


def tasks(profile: Profile, seed: int) -> tuple[Task, ...]:
    """The tasks of a seed, on the device (the same for all seeds unless the profile draws its classes)."""
    return _tasks(*_task_key(profile, seed))[0]


def data_checksum(profile: Profile, seed: int) -> str:
    """Hash of the pixels and labels the tasks of this seed use."""
    return _tasks(*_task_key(profile, seed))[1]


def _task_key(profile: Profile, seed: int):
    # only what the tasks depend on, so that profiles share them and the cache works
    bare = profile.model_copy(update={"arms": (), "seeds": "1", "name": "", "about": "", "setting": ""})
    return bare, seed if profile.data.draw else 0, str(default_device())


def data_label(profile: Profile) -> str:
    """The data set's name for rows and figures: no path."""
    source = profile.data.source
    return "cifar100" if source.startswith("cifar100:") else Path(source).name


def fresh_network(profile: Profile, seed: int, outputs: int) -> VGG:
    """The network at the start, fixed by the seed, on the device."""
    n = profile.network
    generator = torch.Generator().manual_seed(seed_of(seed, "init"))
    model = vgg16(outputs, n.width, n.batch_norm, n.image_size, n.depth, n.classifier, n.init, generator)
    return model.to(default_device())


def outputs_of(profile: Profile, split: Sequence[Task]) -> int:
    """Outputs of the network of the sequence: K with a shared head, T * K with one head per task."""
    return max(t.outputs.stop for t in split)


# --- progress -----------------------------------------------------------------------------------------------------

_say: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731


def _epochs(label: str) -> Callable:
    """A report for `fit`: one line for each epoch."""
    def report(epoch, epochs, accuracies, seconds):
        shown = "  ".join(f"{k} {v:.3f}" for k, v in accuracies.items())
        _say(f"{label}  epoch {epoch}/{epochs}  {shown}  {seconds:.0f} s")
    return report


@contextmanager
def reproducibly():
    """One thread inside (the thread count changes the last bits), and on a GPU deterministic convolutions in whole
    float32 (cuDNN would round to TensorFloat-32: too coarse for activation maximisation)."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(1)
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, True, False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before[1:]


# --- products -----------------------------------------------------------------------------------------------------

def store(profile: Profile) -> Store:
    """The profile's products."""
    return Store(results_dir(profile.name) / "runs")


def _save_checkpoint(product: dict, path: Path) -> None:
    with open(path, "wb") as file:  # given a path, torch.save would write its name into the file
        torch.save(product, file)


CHECKPOINT = FileType(".pt", _save_checkpoint, lambda path: torch.load(path, weights_only=True, map_location="cpu"))


def _save_npz(arrays: dict[str, np.ndarray], path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


ARRAYS = FileType(".npz", _save_npz, _load_npz)


def lineage_of(state: dict[str, torch.Tensor]) -> str:
    """Hash of a checkpoint's weights and buffers, bit for bit."""
    sha = hashlib.sha256()
    for name, tensor in state.items():
        sha.update(name.encode())
        sha.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:12]


def task1_key(profile: Profile, seed: int) -> dict:
    """What the task-1 checkpoint depends on."""
    return {"science": SCIENCE["task1"], "network": profile.network.model_dump(), "seed": seed,
            "recipe": profile.recipe.model_dump(), "data": data_checksum(profile, seed)}


def task1(profile: Profile, seed: int) -> dict:
    """The task-1 checkpoint, made once: {"model": state, "path": SI's path integral, "lineage", "accuracy", "loss",
    "before": accuracies by task, "confusion": {task: (K, K)}}."""
    def make() -> dict:
        with reproducibly():
            split = tasks(profile, seed)
            model, path = fresh_network(profile, seed, outputs_of(profile, split)), RecordPath()
            path.before(model, split[0])
            history = fit(model, split[0], profile.recipe, path, seed, split, _epochs(f"seed {seed}  task 1"))
            state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
            counts = {t.name: confusion(model, t, profile.recipe.precision) for t in split}
            return {"model": state, "path": {k: v.cpu() for k, v in path.omega.items()}, "lineage": lineage_of(state),
                    "accuracy": history.accuracy, "loss": history.loss, "confusion": counts,
                    "before": {t.name: evaluate(model, t, profile.recipe.precision) for t in split}}

    return store(profile).once("task1", task1_key(profile, seed), make, CHECKPOINT)


def task1_rows(profile: Profile, seed: int) -> dict:
    """The checkpoint's numbers without its weights (small enough to publish): as `task1`, in plain lists."""
    def make() -> dict:
        checkpoint = task1(profile, seed)
        counts = {name: table.tolist() for name, table in checkpoint["confusion"].items()}
        return {"seed": seed, "setting": profile.setting, "data": data_label(profile), "confusion": counts,
                **{k: checkpoint[k] for k in ("lineage", "accuracy", "loss", "before")}}

    return store(profile).once("task1_rows", task1_key(profile, seed), make)


def network_after_task1(profile: Profile, seed: int) -> VGG:
    """The network as it was before round 2."""
    model = fresh_network(profile, seed, outputs_of(profile, tasks(profile, seed)))
    model.load_state_dict(task1(profile, seed)["model"])
    return model


def maps_key(profile: Profile, seed: int) -> dict:
    """What the class maps depend on."""
    return {"science": SCIENCE["maps"], "task1": task1_key(profile, seed), "images": profile.explain.map_images}


def maps(profile: Profile, seed: int) -> dict[str, np.ndarray]:
    """Class maps, made once: {"maps": float32 (C, H, W) in [0, 1], "used": (C,), "correct": (C,)}."""
    def make():
        with reproducibly():
            found = saliency.class_maps(network_after_task1(profile, seed), tasks(profile, seed)[0],
                                        profile.explain.map_images)
        _say(f"seed {seed}  class maps from {min(found.used)} to {max(found.used)} images each")
        return {"maps": found.maps.cpu().numpy(), "used": np.array(found.used), "correct": np.array(found.correct)}

    return store(profile).once("maps", maps_key(profile, seed), make, ARRAYS)


def filters_key(profile: Profile, seed: int, layer: str) -> dict:
    """What a layer's visualizations depend on."""
    return {"science": SCIENCE["filters"], "task1": task1_key(profile, seed), "layer": layer,
            "steps": profile.explain.steps, "lr": profile.explain.lr}


def filters(profile: Profile, seed: int, layer: str) -> dict[str, np.ndarray]:
    """Every filter of a layer visualised, made once: {"pixels": uint8 (F, 3, H, W) un-normalised and clamped,
    "change": uint8 (F, H, W), the alternative heat map (mean |image - noise|, scaled) times 255}. Float32."""
    def make():
        task, e = tasks(profile, seed)[0], profile.explain
        with reproducibly():
            model, size = network_after_task1(profile, seed), profile.network.image_size
            found = visualization.maximize_activation(model, layer, None, e.steps, seed, e.lr, size, task)
            noise = visualization.noise_image(seed, layer, range(len(found)), size, task).to(found)
        return {"pixels": visualization.to_pixels(found, task).cpu().numpy(),
                "change": (visualization.change_maps(found, noise) * 255).round().byte().cpu().numpy()}

    return store(profile).once("filters", filters_key(profile, seed, layer), make, ARRAYS)


def heat(profile: Profile, seed: int, layer: str) -> torch.Tensor:
    """Heat maps (F, H, W) in [0, 1] of a layer's visualizations, by the profile's rule."""
    found = filters(profile, seed, layer)
    if profile.explain.heat_map == "difference":
        return torch.from_numpy(found["change"]).float() / 255
    return visualization.heat_maps(torch.from_numpy(found["pixels"]))


def evidence(profile: Profile, seed: int, model: VGG | None = None) -> Evidence:
    """What rankings may look at, for the network as it was before round 2."""
    model = model or network_after_task1(profile, seed)
    return Evidence(model, tasks(profile, seed)[0], seed,
                    fetch_maps=lambda: torch.from_numpy(maps(profile, seed)["maps"]),
                    fetch_heat=lambda: {layer: heat(profile, seed, layer) for layer in conv_layers(model)})


def overlap_key(profile: Profile, seed: int) -> dict:
    """What the overlap table of a seed depends on."""
    return {"science": SCIENCE["overlap"], "maps": maps_key(profile, seed), "explain": profile.explain.model_dump(),
            "filters": SCIENCE["filters"]}


def overlap(profile: Profile, seed: int) -> dict:
    """How far the choice of filters depends on the map, the class and the metric, made once: {"overlap": rows
    {fraction, ranking, other, iou}, "class_maps": their Pearson correlations (C, C), "images": used for each}."""
    def make() -> dict:
        with reproducibly():
            look = evidence(profile, seed)
            found = examination.overlaps(look, FRACTIONS)
        _say(f"seed {seed}  overlap of rankings")
        return {"seed": seed, "lineage": task1(profile, seed)["lineage"], "overlap": found,
                "class_maps": ranking.similarity(look.maps, look.maps, "pearson").tolist(),
                "images": maps(profile, seed)["used"].tolist()}

    return store(profile).once("overlap", overlap_key(profile, seed), make)


# --- runs ---------------------------------------------------------------------------------------------------------

def run_key(arm: Arm, profile: Profile, seed: int) -> dict:
    """What a run depends on, except the lineage of its checkpoint and the arm's name."""
    key = {"science": SCIENCE["run"], "method": arm.method, "options": dict(arm.options), "seed": seed,
           "curriculum": arm.curriculum, "task1": task1_key(profile, seed)}
    if arm.options.get("ranking", "random") not in SIGHTLESS:
        key["explain"] = profile.explain.model_dump(), SCIENCE["maps"], SCIENCE["filters"]
    return key


def run(arm: Arm, seed: int, profile: Profile, again: bool = False) -> dict:
    """The arm's rows, made once: {"row": one line of runs.csv, "accuracy": [...], and what the method records}.

    If the row is there under any lineage it is read, without a checkpoint; `again` insists on this checkpoint's.
    """
    shelf, key = store(profile), run_key(arm, profile, seed)
    if arm.curriculum != "sequence":
        return shelf.once("run", key, lambda: _from_scratch(arm, seed, profile), branch=NO_LINEAGE)
    have = shelf.branches("run", key)
    if have and not again:
        return shelf.once("run", key, dict, branch=have[0])
    lineage = task1(profile, seed)["lineage"]
    return shelf.once("run", key, lambda: _sequence(arm, seed, profile, lineage), branch=lineage)


def _row(profile: Profile, arm: Arm, seed: int, lineage: str, model: VGG, split: Sequence[Task], **more) -> dict:
    precision = profile.recipe.precision
    after = {t.name: measure(model, t, precision) for t in split}
    return {"data": data_label(profile), "data_checksum": data_checksum(profile, seed), "seed": seed,
            "lineage": lineage, "method": arm.method, "curriculum": arm.curriculum,
            "ranking": arm.options.get("ranking"), "fraction": arm.options.get("fraction"), "precision": precision,
            **{f"acc{k}": after[t.name]["accuracy"] for k, t in enumerate(split, 1)},
            "loss1": after[split[0].name]["loss"],
            "acc1_train": measure(model, split[0], precision, "train")["accuracy"], **more}


def _sequence(arm: Arm, seed: int, profile: Profile, lineage: str) -> dict:
    """Round 2 and later rounds from the task-1 checkpoint, by the arm's method."""
    with reproducibly():
        split, model = tasks(profile, seed), network_after_task1(profile, seed)
        look = evidence(profile, seed, network_after_task1(profile, seed))
        context = Context(split, seed, profile.recipe, lambda name, **o: RANKINGS[name](look, **o),
                          lambda m: {t.name: evaluate(m, t, profile.recipe.precision) for t in split})
        before = {f"acc{k}_before": evaluate(model, t, profile.recipe.precision) for k, t in enumerate(split, 1)}
        before["loss1_before"] = measure(model, split[0], profile.recipe.precision)["loss"]
        method, accuracy = METHODS[arm.method](**arm.options), []
        for number, task in enumerate(split[1:], 2):
            method.before(model, task, context)
            label = f"seed {seed}  {arm.name}" + (f"  round {number}" if len(split) > 2 else "")
            history = fit(model, task, profile.recipe, method, seed, split, _epochs(label))
            accuracy += [{"round": number, **row} for row in history.accuracy]
            method.after(model, task, context)
        row = _row(profile, arm, seed, lineage, model, split, realised=frozen_fraction(model, method), **before)
        return {"row": row, "accuracy": accuracy, **method.records()}


def _from_scratch(arm: Arm, seed: int, profile: Profile) -> dict:
    """Upper and lower targets that start from the network's initialisation.

    joint20: all classes at once, one output each, T times the epochs; every epoch is scored over all outputs (as in
    the paper) and masked to each task's own. joint10: the same with the shared head. last: the last task alone.
    """
    with reproducibly():
        split, recipe = tasks(profile, seed), profile.recipe
        if arm.curriculum == "last":
            task, watch = split[-1], split
        else:
            shared, k = arm.curriculum == "joint10", len(split[0].classes)
            if shared:
                split = [t._replace(first_output=0) for t in split]
            task = data_room.join(split, shared)
            recipe = recipe.model_copy(update={"epochs": recipe.epochs * len(split)})
            # scored over all outputs: classes widened to the joint list, labels moved to their place in it
            watch = split if shared else [t._replace(classes=task.classes, first_output=0, y=t.y + i * k,
                                                     y_test=t.y_test + i * k) for i, t in enumerate(split)]
            masked = [] if shared else [t._replace(name=f"{t.name} masked", first_output=i * k)
                                        for i, t in enumerate(split)]
        model = fresh_network(profile, seed, max(t.outputs.stop for t in [task, *watch]))
        seen = watch if arm.curriculum == "last" else [*watch, *masked]
        history = fit(model, task, recipe, None, seed, seen, _epochs(f"seed {seed}  {arm.name}"))
        row = _row(profile, arm, seed, NO_LINEAGE, model, watch, realised=0.0)
        return {"row": row, "accuracy": [{"round": 0, **r} for r in history.accuracy]}


# --- many jobs, side by side --------------------------------------------------------------------------------------

class Job(NamedTuple):
    """One product still to be made. kind: task1, maps, filters, overlap or run; what: the layer's or the arm's name."""

    kind: str
    seed: int
    what: str = ""
    again: bool = False

    def __str__(self) -> str:
        return f"seed {self.seed}  {self.what or self.kind}"


def missing_arms(profile: Profile, seed: int) -> list[Arm]:
    """Arms of a seed with no row under any lineage (some arms are asked for on a few seeds only)."""
    shelf = store(profile)
    return [arm for arm in arms(profile) if (arm.seeds is None or seed in parse_seeds(arm.seeds))
            and not shelf.branches("run", run_key(arm, profile, seed))]


def jobs(profile: Profile, kind: str, show: int | None = None) -> list[Job]:
    """What is still missing of a kind, in the profile's order. A seed whose rows are all there needs no checkpoint,
    maps or filters; `show` names a seed whose products are wanted all the same, to be looked at."""
    shelf, found = store(profile), []
    for seed in profile.seed_list:
        missing = [a for a in missing_arms(profile, seed) if a.curriculum == "sequence"]
        compared = not profile.arms or shelf.has("overlap", overlap_key(profile, seed))
        sighted = any(a.options.get("ranking", "random") not in SIGHTLESS for a in missing) or not compared
        rows = shelf.has("task1_rows", task1_key(profile, seed))
        if kind == "task1" and (missing or seed == show or not compared or not rows):
            if not shelf.has("task1", task1_key(profile, seed), ".pt"):
                found.append(Job(kind, seed))
        if kind == "maps" and (sighted or seed == show) and not shelf.has("maps", maps_key(profile, seed), ".npz"):
            found.append(Job(kind, seed))
        if kind == "filters" and (sighted or seed == show):
            # deep layers take longest, so that the last job to finish is a short one
            found += [Job(kind, seed, layer) for layer in reversed(layer_names(profile))
                      if not shelf.has("filters", filters_key(profile, seed, layer), ".npz")]
        if kind == "overlap" and not compared:
            found.append(Job(kind, seed))
        if kind == "run":
            found += _run_jobs(profile, seed)
    return found


def _run_jobs(profile: Profile, seed: int) -> list[Job]:
    """Missing arms, and on a checkpoint whose lineage is new its reference arms, so that new rows have a pair."""
    shelf, missing = store(profile), missing_arms(profile, seed)
    found = [Job("run", seed, arm.name) for arm in missing]
    if any(arm.curriculum == "sequence" for arm in missing):
        lineage = task1(profile, seed)["lineage"]
        for arm in arms(profile):
            have = shelf.branches("run", run_key(arm, profile, seed))
            reference = arm.options.get("ranking", arm.method) in REFERENCES and arm.curriculum == "sequence"
            if reference and have and lineage not in have:
                found.append(Job("run", seed, arm.name, again=True))
    return found


def layer_names(profile: Profile) -> list[str]:
    """The convolutions of the profile's network."""
    with torch.device("meta"):
        n = profile.network
        return list(conv_layers(vgg16(2, n.width, n.batch_norm, n.image_size, n.depth, init="pytorch",
                                      generator=None)))


def do(job: Job, profile: Profile) -> None:
    """Make one product (or read it, if it was made meanwhile)."""
    if job.kind == "task1":
        task1(profile, job.seed)
        task1_rows(profile, job.seed)
    elif job.kind == "maps":
        maps(profile, job.seed)
    elif job.kind == "filters":
        filters(profile, job.seed, job.what)
    elif job.kind == "overlap":
        overlap(profile, job.seed)
    else:
        run(next(a for a in arms(profile) if a.name == job.what), job.seed, profile, job.again)


def _start_worker(queue, parent: int) -> None:
    """One thread; lines go to the parent; a worker whose parent was killed ends too."""
    global _say
    torch.set_num_threads(1)
    _say = queue.put

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def default_workers() -> int:
    """Processes side by side: $WORKERS if set, else one for each core this process may use."""
    return int(os.environ.get("WORKERS") or len(os.sched_getaffinity(0)))


def fulfil(todo: Sequence[Job], profile: Profile, workers: int | None = None) -> None:
    """Do all jobs in `workers` processes of one thread each; prints a line for each epoch and each finished job with
    the time left, also into `<results>/log.txt`. The first failure ends it; what was finished stays."""
    if not todo:
        return
    workers = min(workers or default_workers(), len(todo))
    context = multiprocessing.get_context("spawn")
    log_path = results_dir(profile.name) / "log.txt"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, "a") as log:
        queue, start, done = context.SimpleQueue(), time.time(), 0

        def tell(line: str) -> None:
            print(line, flush=True)
            print(time.strftime("%F %T"), line, file=log, flush=True)

        pool = ProcessPoolExecutor(workers, context, _start_worker, (queue, os.getpid()))
        try:
            waiting = {pool.submit(do, job, profile): job for job in todo}
            while waiting:
                while not queue.empty():
                    tell(queue.get())
                finished = [f for f in waiting if f.done()]
                for future in finished:
                    job = waiting.pop(future)
                    _result(future, job, profile)
                    done += 1
                    left = (time.time() - start) / done * len(waiting)
                    tell(f"done {done}/{len(todo)}  {job}  about {_duration(left)} left")
                time.sleep(0.05 if finished else 0.2)
            while not queue.empty():
                tell(queue.get())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()


def _result(future, job: Job, profile: Profile) -> None:
    """The job's outcome; failures that are not the study's own get a sentence that says what to do."""
    kept = "what was finished is kept, the same command goes on from there"
    try:
        future.result()
    except BrokenProcessPool:
        raise RuntimeError(f"a worker process was killed while at {job} (out of memory?): run with fewer workers "
                           f"(WORKERS=1); {kept}") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(errno.ENOSPC, f"the disk that holds {results_dir(profile.name)} is full (at {job}): free some "
                                    f"space; {kept}") from None
    except RuntimeError as error:  # torch reports a full disk in its own way
        if "PytorchStreamWriter" not in str(error) and "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, f"a file in {results_dir(profile.name)} could not be written (at {job}; is the "
                                    f"disk full?): free some space; {kept}") from None


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def collect(profile: Profile) -> dict[str, list[dict]]:
    """All tables of a profile from the rows in its store: every seed found there whose key is the profile's today,
    not just the seeds of this run; tuning seeds stay out. Tables: runs, accuracy, trajectory, masks, timing."""
    tables: dict[str, list[dict]] = {name: [] for name in ("runs", "accuracy", "trajectory", "masks", "timing")}
    shelf, wanted = store(profile), {}
    for seed in sorted({m["key"]["seed"] for _, m in shelf.metas("run")} | set(profile.seed_list)):
        if seed < FIRST_TUNING_SEED or seed in profile.seed_list:
            for place, arm in enumerate(arms(profile)):
                wanted[digest(run_key(arm, profile, seed))] = place, arm.name
    found = []
    for path, meta in shelf.metas("run"):
        if (hit := wanted.get(digest(meta["key"]))) is not None:
            found.append((meta["key"]["seed"], hit[0], meta["branch"], hit[1], path, meta))
    for seed, _, lineage, arm, path, meta in sorted(found, key=lambda f: f[:3]):
        product = shelf.read(path)
        run_id = f"{arm}/{seed}/{lineage}"
        options = meta["key"]["options"]
        how = {k: options.get(k, usual) for k, usual in (("rule", "turns"), ("scope", "weights"))}
        tables["runs"].append({"profile": profile.name, "setting": profile.setting, "arm": arm, **product["row"],
                               **(how if product["row"]["method"] == "freeze" else {})})
        for name, rows in product.items():
            if name != "row":
                tables.setdefault(name, []).extend(
                    {"run": run_id, "arm": arm, "seed": seed, "lineage": lineage, **row} for row in rows)
        tables["timing"].append({"run": run_id, "kind": "run", "seconds": meta["seconds"], "made": meta["made"],
                                 "commit": meta["commit"], "dirty": meta["dirty"], "processor": meta["processor"],
                                 "cores": meta["cores"], "torch": meta["versions"].get("torch")})
    return tables


def calibrated(profile: Profile) -> list[Profile]:
    """The settings this profile reports beside its own: task 1 alone, on tuning seeds, kept in this profile's store."""
    wanted = profile.calibration
    return [load(name, wanted.seeds, profile.data.source).model_copy(update={"name": profile.name, "arms": ()})
            for name in wanted.profiles]


def calibration(profile: Profile) -> list[dict]:
    """Rows {setting, about, precision, seed, acc1_before, acc2_before} of the calibration runs, made if missing."""
    rows = []
    for setting in calibrated(profile):
        fulfil(jobs(setting, "task1"), setting)
        for seed in setting.seed_list:
            before = task1_rows(setting, seed)["before"]
            rows.append({"setting": setting.setting, "about": setting.about, "precision": setting.recipe.precision,
                         "seed": seed, **{f"acc{k}_before": v for k, v in enumerate(before.values(), 1)}})
    return rows


# --- the shard command --------------------------------------------------------------------------------------------

def complete(profile: Profile, show: int | None = None, workers: int | None = None) -> None:
    """Everything the profile's seeds still lack: checkpoints, class maps, visualizations, overlaps, then runs."""
    for kind in ("task1", "maps", "filters", "overlap", "run"):
        fulfil(jobs(profile, kind, show), profile, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m lib.study --profile paper --seeds 1-10 --shard 2/4`: a part of the runs, anywhere, no notebooks."""
    parser = argparse.ArgumentParser(prog="python -m lib.study", description=main.__doc__)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--seeds", help="such as 1-10; the profile's own if not given")
    parser.add_argument("--data", help="a data source in place of the profile's")
    parser.add_argument("--shard", default="1/1", help="I/N: the I-th of N parts; whole seeds, dealt in turn")
    parser.add_argument("--workers", type=int, help="processes side by side, one thread each")
    given = parser.parse_args(arguments)
    try:
        part, _, parts = given.shard.partition("/")
        if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
            raise ValueError(f"shard {given.shard!r}: expected I/N with I from 1 to N, such as 2/4")
        seeds = parse_seeds(given.seeds or load(given.profile).seeds)[int(part) - 1::int(parts)]
        if not seeds:
            raise ValueError(f"shard {given.shard} of {given.seeds} holds no seed: expected at most as many shards as "
                             "seeds")
        profile = load(given.profile, ",".join(map(str, seeds)), given.data)
        check(profile)
        complete(profile, workers=given.workers)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"profile": profile.name, "seeds": seeds, "rows": len(collect(profile)["runs"])}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
