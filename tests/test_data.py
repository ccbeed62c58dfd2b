"""Every source gives the same kind of tensors or one clear sentence; the batched augmentation
equals the slow one."""

import hashlib
import struct
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision import transforms

from lib import data
from lib.data import (
    augment,
    channel_statistics,
    checksum,
    draw_classes,
    duplicates,
    join,
    load,
    normalise,
    resize,
    split_tasks,
)
from references.data import augment_one_by_one


def assert_wellformed(images, n, n_test, size, classes):
    assert images.x.shape == (n, 3, size, size) and images.x_test.shape == (n_test, 3, size, size)
    assert images.x.dtype == images.x_test.dtype == torch.uint8
    assert images.y.dtype == images.y_test.dtype == torch.int64
    assert images.y.shape == (n,) and images.y_test.shape == (n_test,)
    assert len(images.names) == classes and set(images.y.tolist()) == set(range(classes))


# --- .npz -----------------------------------------------------------------------------------------


def test_npz_in_colour(tmp_path, tiny_arrays, tiny_npz):
    arrays = tiny_arrays(per_class=8, size=8)
    images = load(tiny_npz(tmp_path / "a.npz", per_class=8, size=8))
    assert_wellformed(images, 32, 8, 8, 4)
    assert np.array_equal(images.x.permute(0, 2, 3, 1), arrays["x_train"])
    assert np.array_equal(images.y_test, arrays["y_test"]) and images.names == ("0", "1", "2", "3")


@pytest.mark.parametrize("axis", [False, True])
def test_npz_in_grey_is_repeated_in_every_channel(tmp_path, tiny_arrays, axis):
    arrays = tiny_arrays(per_class=4, size=8)
    for key in ("x_train", "x_test"):
        arrays[key] = arrays[key][..., :1] if axis else arrays[key][..., 0]
    np.savez(tmp_path / "grey.npz", **arrays)
    images = load(str(tmp_path / "grey.npz"))
    assert_wellformed(images, 16, 4, 8, 4)
    for channel in range(3):
        assert np.array_equal(images.x[:, channel], arrays["x_train"].reshape(16, 8, 8))


def test_npz_with_class_names_and_another_size(tmp_path, tiny_arrays):
    np.savez(
        tmp_path / "a.npz",
        **tiny_arrays(per_class=4, size=8),
        fine_label_names=["oak", "elm", "ash", "fir"],
    )
    images = load(str(tmp_path / "a.npz"), image_size=32)
    assert_wellformed(images, 16, 4, 32, 4)
    assert images.names == ("oak", "elm", "ash", "fir")
    assert torch.equal(images.x, resize(load(str(tmp_path / "a.npz")).x, 32))


BAD = {
    "lacks y_test": lambda a: a.pop("y_test"),
    r"x_train is float32 .*expected uint8": lambda a: a.update(
        x_train=a["x_train"].astype(np.float32)
    ),
    r"x_test is uint8 \(4, 3, 8, 8\), expected": lambda a: a.update(
        x_test=a["x_test"].transpose(0, 3, 1, 2)
    ),
    r"x_train is uint8 \(16, 192\)": lambda a: a.update(x_train=a["x_train"].reshape(16, 192)),
    r"y_train is float64 \(16,\), expected integers": lambda a: a.update(
        y_train=a["y_train"] * 1.0
    ),
    r"y_test is int64 \(4, 1\), expected": lambda a: a.update(y_test=a["y_test"][:, None]),
    "x_train has 16 images but y_train 15 labels": lambda a: a.update(y_train=a["y_train"][:-1]),
    "x_test has 3 images but y_test 4 labels": lambda a: a.update(x_test=a["x_test"][1:]),
    "y_train holds the negative label -1": lambda a: a.update(y_train=a["y_train"] - 1),
    "8 by 6 pixels, expected square": lambda a: a.update(x_train=a["x_train"][:, :, :6]),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_npz_is_refused_in_one_sentence_naming_the_file(tmp_path, tiny_arrays, message):
    arrays = tiny_arrays(per_class=4, size=8)
    BAD[message](arrays)
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def spoil_end(path):
    path.write_bytes(path.read_bytes()[:-200])


def spoil_all(path):
    path.write_bytes(b"")


def spoil_pixels(path):
    path.write_bytes(path.read_bytes().replace(path.read_bytes()[1000:1010], b"0123456789", 1))


def spoil_as_text(path):
    path.write_text("not an archive\n" * 20)


def spoil_as_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def spoil_compressed(path):
    """The compressed stream of the last member begins with a block type that does not exist."""
    with np.load(path) as file:
        np.savez_compressed(path, **file)
    with zipfile.ZipFile(path) as file:
        start = file.infolist()[-1].header_offset
    whole = bytearray(path.read_bytes())
    whole[start + 30 + sum(struct.unpack("<HH", whole[start + 26 : start + 30]))] = (
        0xFF  # after name and extra field
    )
    path.write_bytes(whole)


def spoil_as_objects(path):
    with np.load(path) as file:
        np.savez(path, **{**file, "x_train": np.array([{}, None])})


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_end,
        spoil_all,
        spoil_pixels,
        spoil_as_text,
        spoil_as_array,
        spoil_compressed,
        spoil_as_objects,
    ],
)
def test_a_damaged_npz_is_refused_by_name(tmp_path, tiny_npz, spoil):
    path = tmp_path / "damaged.npz"
    tiny_npz(path, per_class=4, size=8)
    spoil(path)
    with pytest.raises(ValueError, match="damaged or not an .npz file") as caught:
        load(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("source", ["none.npz", "cifar10", "nowhere/pictures"])
def test_a_missing_source_is_refused(tmp_path, source):
    with pytest.raises(FileNotFoundError, match="no data .*expected"):
        load(str(tmp_path / source))


# --- digits, folders ------------------------------------------------------------------------------


def test_digits(tmp_path):
    images = load("digits", tmp_path, image_size=32)
    assert_wellformed(images, 1257, 540, 32, 10)
    assert set(images.y_test.tolist()) == set(range(10)) and images.names == tuple("0123456789")
    small = load("digits", tmp_path)
    assert small.x.shape == (1257, 3, 8, 8) and small.x.max() == 255 and small.x.min() == 0
    assert duplicates(small.x, small.x_test) == []  # disjoint
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("digits-")
    kept.write_bytes(kept.read_bytes()[:100])  # damaged: made again, the same split every time
    for root in (tmp_path, tmp_path, tmp_path / "nowhere", Path("/proc")):  # no place to keep them
        again = load("digits", root)
        assert torch.equal(small.y, again.y) and torch.equal(small.x_test, again.x_test)
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept.name]


def write_folder(root, classes, count, value=None):
    from PIL import Image

    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (12, 8), (value or 10 * i, 50 * c, 0)).save(
                root / name / f"{i:02}.png"
            )
    (root / classes[0] / "notes.txt").write_text("not an image")


def test_folder_without_train_and_test_gives_every_fifth_for_testing(tmp_path):
    write_folder(tmp_path / "set", ["cat", "ant"], 10)
    images = load(str(tmp_path / "set"))
    assert_wellformed(images, 16, 4, 32, 2)
    assert images.names == ("ant", "cat")  # sorted, whatever the order on disk
    assert images.x_test[:, 0, 0, 0].tolist() == [40, 40, 90, 90] and images.y_test.tolist() == [
        0,
        1,
        0,
        1,
    ]  # by turns: the first few images are of every class
    assert images.x[:, 1, 5, 5].tolist() == [50, 0] * 8  # ant was written second
    assert load(str(tmp_path / "set"), image_size=64).x.shape[-1] == 64


def test_folder_with_train_and_test(tmp_path):
    write_folder(tmp_path / "train", ["a", "b"], 3, value=100)
    write_folder(tmp_path / "test", ["a", "b"], 2, value=200)
    images = load(str(tmp_path))
    assert_wellformed(images, 6, 4, 32, 2)
    assert (images.x[:, 0] == 100).all() and (images.x_test[:, 0] == 200).all()


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no class folders; expected"):
        load(str(tmp_path))
    write_folder(tmp_path, ["a"], 4)
    with pytest.raises(ValueError, match="no images for test; expected"):
        load(str(tmp_path))
    (tmp_path / "a" / "04.png").write_text("not a picture")
    with pytest.raises(ValueError, match="04.png: not a readable image"):
        load(str(tmp_path))


# --- tasks ----------------------------------------------------------------------------------------


def test_split_tasks_keeps_images_and_renumbers_labels(tiny_images):
    first, second = split_tasks(tiny_images, [[3, 1], [0, 2]])
    assert (first.name, second.name, first.classes, second.classes) == (
        "task1",
        "task2",
        (3, 1),
        (0, 2),
    )
    for task in (first, second):
        assert len(task.x) == 80 and len(task.x_test) == 20
        keep = [i for i, y in enumerate(tiny_images.y.tolist()) if y in task.classes]
        assert torch.equal(task.x, tiny_images.x[keep])
        assert [task.classes[y] for y in task.y] == tiny_images.y[keep].tolist()
        keep = [i for i, y in enumerate(tiny_images.y_test.tolist()) if y in task.classes]
        assert torch.equal(task.x_test, tiny_images.x_test[keep])
        assert [task.classes[y] for y in task.y_test] == tiny_images.y_test[keep].tolist()
        assert torch.equal(task.mean, tiny_images.mean) and torch.equal(task.std, tiny_images.std)


def test_heads(tiny_images):
    shared, own = (split_tasks(tiny_images, [[0, 1], [2, 3]], h) for h in ("shared", "per_task"))
    assert [t.outputs for t in shared] == [slice(0, 2), slice(0, 2)]
    assert [t.outputs for t in own] == [slice(0, 2), slice(2, 4)]
    assert set(own[1].y.tolist()) == {0, 1}  # labels count from the head's first output


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([[0, 1], [2, 9]], r"no images of class \[9\]"),
        ([[0, 1], [1, 2]], r"classes \[1\] are in more than one task"),
        ([[0, 0], [1, 2]], r"classes \[0\] are in more than one task \(or twice in one\)"),
        ([[0, 1], [2]], r"tasks of \[2, 1\] classes: expected equal sizes"),
    ],
)
def test_impossible_tasks_are_refused(tiny_images, classes, message):
    with pytest.raises(ValueError, match=message):
        split_tasks(tiny_images, classes)


def test_a_class_without_test_images_is_refused(tiny_images):
    poor = tiny_images._replace(y_test=tiny_images.y_test.clamp_max(2))
    with pytest.raises(ValueError, match=r"no images of class \[3\]"):
        split_tasks(poor, [[0, 1], [2, 3]])


def test_join(tiny_tasks):
    every, same = join(tiny_tasks, shared=False), join(tiny_tasks, shared=True)
    assert torch.equal(every.x, torch.cat([t.x for t in tiny_tasks])) and torch.equal(
        every.x, same.x
    )
    assert (
        every.classes == (0, 1, 2, 3)
        and every.outputs == slice(0, 4)
        and same.outputs == slice(0, 2)
    )
    assert every.y.tolist() == tiny_tasks[0].y.tolist() + [y + 2 for y in tiny_tasks[1].y.tolist()]
    assert same.y_test.tolist() == tiny_tasks[0].y_test.tolist() + tiny_tasks[1].y_test.tolist()


def test_draw_classes_is_fixed_by_the_seed_and_disjoint():
    all_of_them = range(100)
    drawn = draw_classes(all_of_them, 2, 10, seed=1)
    assert drawn == draw_classes(all_of_them, 2, 10, 1) != draw_classes(all_of_them, 2, 10, 2)
    gaps = draw_classes([0, 1, 7, 9], 2, 2, seed=1)
    assert sorted(c for task in gaps for c in task) == [0, 1, 7, 9]
    assert [len(c) for c in drawn] == [10, 10] and len({c for task in drawn for c in task}) == 20
    assert sorted(c for task in draw_classes(range(6), 3, 2, 0) for c in task) == list(range(6))
    with pytest.raises(ValueError, match="cannot draw 3 x 2 classes from 5"):
        draw_classes(range(5), 3, 2, 0)


def test_checksum_is_of_what_is_used(tmp_path, tiny_npz, tiny_tasks):
    tasks = [
        split_tasks(load(tiny_npz(tmp_path / name)), [[0, 1], [2, 3]])
        for name in ("a.npz", "b.npz")
    ]
    assert checksum(tasks[0]) == checksum(tasks[1]) == checksum(tiny_tasks)  # wherever the file lay
    first, second = tiny_tasks
    seen = {checksum(tiny_tasks), checksum([second, first])}
    for part in ("x", "y", "x_test", "y_test", "mean", "std"):
        changed = getattr(second, part).clone()
        changed.view(-1)[7 % changed.numel()] += 1
        seen.add(checksum([first, second._replace(**{part: changed})]))
    assert len(seen) == 8


# --- pixels to the network's input ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("padding", "flip"), [(4, True), (4, False), (0, True), (1, True)])
def test_augment_equals_one_image_at_a_time(tiny_tasks, padding, flip, dtype):
    x = tiny_tasks[0].x
    fast, slow = (
        f(x, tiny_tasks[0], torch.Generator().manual_seed(3), padding, flip, dtype)
        for f in (augment, augment_one_by_one)
    )
    assert fast.dtype == dtype and torch.equal(fast, slow)
    assert fast.is_contiguous(memory_format=torch.channels_last)
    other = augment(x, tiny_tasks[0], torch.Generator().manual_seed(4), padding, flip, dtype)
    assert not torch.equal(fast, other)


def test_all_offsets_and_both_directions_occur(tiny_tasks):
    """One marked pixel in the middle shows where each image was moved: 3 x 3 offsets and, off the
    axis, its mirror."""
    x = torch.zeros(500, 3, 9, 9, dtype=torch.uint8)
    x[:, :, 4, 2] = 255
    task = tiny_tasks[0]._replace(mean=torch.zeros(3), std=torch.ones(3))
    seen = (
        augment(x, task, torch.Generator().manual_seed(0), 1, True)[:, 0].nonzero()[:, 1:].tolist()
    )
    assert len(seen) == 500 and {tuple(p) for p in seen} == {
        (r, c) for r in (3, 4, 5) for c in (1, 2, 3, 5, 6, 7)
    }


def test_nothing_to_augment_is_normalise(tiny_tasks):
    task = tiny_tasks[0]
    assert torch.equal(augment(task.x, task, torch.Generator(), 0, False), normalise(task.x, task))


def test_normalise_equals_torchvision(tiny_tasks):
    task = tiny_tasks[0]
    reference = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(task.mean, task.std)]
    )
    wanted = torch.stack([reference(image.permute(1, 2, 0).numpy()) for image in task.x])
    torch.testing.assert_close(normalise(task.x, task), wanted, rtol=1e-6, atol=1e-6)
    assert normalise(task.x[:2], task, torch.float64).dtype == torch.float64


def test_channel_statistics_equal_numpy(tiny_images):
    mean, std = channel_statistics(tiny_images.x)
    pixels = tiny_images.x.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=1e-6)
    assert torch.equal(mean, tiny_images.mean) and torch.equal(std, tiny_images.std)
    assert (
        channel_statistics(torch.full((2, 3, 4, 4), 9, dtype=torch.uint8))[1] > 0
    ).all()  # never divides by 0


def test_resize():
    x = torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)
    assert resize(x, None) is x and resize(x, 8) is x
    assert (
        resize(x, 32).shape == (2, 3, 32, 32)
        and (resize(x, 32) == 77).all()
        and (resize(x, 4) == 77).all()
    )


@pytest.mark.parametrize("count", [1, 4, 5, 7, 8])
def test_images_are_resized_some_at_a_time_to_the_same_bits(count, monkeypatch):
    x = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)
    by_hand = functional.interpolate(
        x.float(), size=(20, 20), mode="bilinear", antialias=True, align_corners=False
    )
    monkeypatch.setattr(data, "AT_ONCE", 4)
    assert torch.equal(resize(x, 20), by_hand.round().clamp(0, 255).to(torch.uint8))


def test_duplicates(tiny_images):
    x, x_test = tiny_images.x[:9].clone(), tiny_images.x_test[:5].clone()
    assert duplicates(x, x_test) == []
    x[2], x[7], x_test[4] = x_test[3], x_test[0], x_test[0]
    x[5] = x_test[1]
    x[5, 2, 31, 31] ^= 1  # one bit off is another image
    assert sorted(duplicates(x, x_test)) == [(2, 3), (7, 0), (7, 4)]


# --- CIFAR-100 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), RuntimeError("File not found or corrupted.")]
)
def test_cifar100_without_a_network_says_what_to_do(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    with pytest.raises(
        ConnectionError, match="expected a network .*cifar-100-python folder .*DATA=cifar100:FOLDER"
    ):
        load("cifar100", root=tmp_path)


def test_a_full_disk_is_not_called_a_missing_network(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    with pytest.raises(OSError, match="No space left") as caught:
        load(f"cifar100:{tmp_path}")
    assert not isinstance(caught.value, ConnectionError)


def test_cifar100_is_the_official_one(cifar100):
    assert_wellformed(cifar100, 50000, 10000, 32, 100)
    assert cifar100.names[:2] == ("apple", "aquarium_fish")
    assert [round(v, 5) for v in cifar100.mean.tolist()] == [0.50708, 0.48655, 0.44092]
    assert [round(v, 5) for v in cifar100.std.tolist()] == [0.26733, 0.25644, 0.27615]


def test_cifar100_has_four_duplicates_among_classes_0_to_19(cifar100):
    train, test = ((y < 20).nonzero().squeeze(1) for y in (cifar100.y, cifar100.y_test))
    pairs = [
        (int(train[i]), int(test[j]))
        for i, j in duplicates(cifar100.x[train], cifar100.x_test[test])
    ]
    assert sorted(pairs) == [(15597, 9524), (21619, 3932), (28189, 3499), (29363, 4716)]
    assert all(
        cifar100.names[cifar100.y[i]] == cifar100.names[cifar100.y_test[j]] == "aquarium_fish"
        for i, j in pairs
    )


def test_the_npz_of_twenty_classes_has_the_same_pixels(cifar100, cifar20_path):
    some = load(str(cifar20_path))
    assert_wellformed(some, 10000, 2000, 32, 20)
    assert some.names == cifar100.names[:20]
    for part in ("", "_test"):
        keep = getattr(cifar100, f"y{part}") < 20
        assert torch.equal(getattr(some, f"x{part}"), getattr(cifar100, f"x{part}")[keep])
        assert torch.equal(getattr(some, f"y{part}"), getattr(cifar100, f"y{part}")[keep])
    pixels = hashlib.sha256(some.x.permute(0, 2, 3, 1).contiguous().numpy().tobytes()).hexdigest()
    assert pixels == "f0d4d5dae8ec41decbf59cbfa4012899f7899e01128507441da795c3218c5a20"
