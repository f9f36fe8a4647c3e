"""`task=preview` and the picture of the augmentation that every run leaves: what is in them, found by pixels."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from runner.augmentation.flip import Flip
from runner.build.check import check
from runner.core.seeds import generator
from runner.data.normalize import Normalize
from runner.data.splits import ResidentSplit
from runner.regularization.base import Item, soft
from runner.task.augmentation_grid import Preview, varied, words
from runner.task.preview import mixed
from runner.task.resources import Resources
from runner.tracking.pictures import draws_grid
from tests.shared.configs import composed
from tests.shared.results import result_of

WORDS = ("task=preview", "threads=1", "data.limit=300")
CPU = torch.device("cpu")


def coded(pixels):
    """[..., 3] -> one number a pixel."""
    return pixels.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)


def places(picture, image, side):
    """(top, left), in reading order, wherever the picture has the image, each pixel a square, `side` in all."""
    factor = side // image.shape[-1]
    pixels = np.asarray(image).repeat(factor, 1).repeat(factor, 2).transpose(1, 2, 0)
    wanted, picture = coded(np.broadcast_to(pixels, (*pixels.shape[:2], 3))), coded(picture)
    middle = side // 2
    room = picture[middle : picture.shape[0] - side + middle + 1, middle : picture.shape[1] - side + middle + 1]
    tops, lefts = np.nonzero(room == wanted[middle, middle])
    for y, x in np.argwhere(np.ones((side // 4, side // 4))) * 4:  # a sample rules nearly all places out
        left = picture[tops + y, lefts + x] == wanted[y, x]
        tops, lefts = tops[left], lefts[left]
    found = zip(tops.tolist(), lefts.tolist(), strict=True)
    return [(y, x) for y, x in found if (picture[y : y + side, x : x + side] == wanted).all()]


def digits(*more):
    """The splits of the runs in this file, and what brings images to a network."""
    config = check(composed(*WORDS, "augmentation=[flip]", *more))
    splits = Resources().splits(config, CPU)
    return config, splits, Normalize(splits, CPU, torch.contiguous_format)


# -- which images ---------------------------------------------------------------------------------------------------


def test_images_are_of_different_classes_first():
    """One of each class, then a second one; no image twice; another generator gives others."""
    labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 5)
    split = ResidentSplit(torch.zeros(60, 1, 2, 2, dtype=torch.uint8), labels)
    rows = varied(split, 8, generator(0, "a"))
    assert sorted(labels[rows[:3]].tolist()) == sorted(labels[rows[3:6]].tolist()) == [0, 1, 2]
    assert len(set(rows.tolist())) == 8
    assert torch.equal(rows, varied(split, 8, generator(0, "a")))
    assert not torch.equal(rows, varied(split, 8, generator(1, "a")))
    assert len(varied(split, 100, generator(0, "a"))) == 60


# -- the drawing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels, side, shown", [(1, 96, 96), (3, 96, 96), (3, 90, 88)])
def test_every_image_stands_in_its_row_and_column(channels, side, shown):
    """Pixels are enlarged by a whole factor; rows and columns are even."""
    images = torch.randint(256, (3, 4, channels, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture = draws_grid(images.numpy(), ["a", "b", "a longer name than there is room for, by far"], "t", side=side)
    found = [[places(picture, image, shown) for image in row] for row in images]
    assert all(len(place) == 1 for row in found for place in row)
    tops, lefts = [row[0][0][0] for row in found], [place[0][1] for place in found[0]]
    assert [[place[0] for place in row] for row in found] == [[(top, left) for left in lefts] for top in tops]
    assert len(set(np.diff(tops))) == 1 == len(set(np.diff(lefts)))


def test_words_make_room_for_themselves():
    """A title takes lines as it needs, labels stand below the images; without either there is no gap."""
    images = np.zeros((2, 3, 1, 8, 8), dtype=np.uint8)
    plain = draws_grid(images, ["a", "b"])
    titled = draws_grid(images, ["a", "b"], "flip p=0.5")
    long = draws_grid(images, ["a", "b"], ", ".join(["crop padding=auto fill=0"] * 5))
    labelled = draws_grid(images, ["a", "b"], labels=[["cat", "cat .7 / dog .3", "dog"]] * 2)
    assert plain.shape[0] < titled.shape[0] < long.shape[0] and plain.shape[0] < labelled.shape[0]
    assert plain.shape[1] == titled.shape[1] == long.shape[1] == labelled.shape[1]


@pytest.mark.parametrize("rows, labels", [(["a"], None), (["a", "b"], [["x"] * 3]), (["a", "b"], [["x"], ["x"]])])
def test_names_and_labels_fit_the_images(rows, labels):
    """As many names as rows, as many labels as images."""
    with pytest.raises(ValueError, match="2 rows of 3 images"):
        draws_grid(np.zeros((2, 3, 1, 8, 8), dtype=np.uint8), rows, labels=labels)


def test_items_are_named_with_their_parameters():
    """As typed, without the target."""
    config = check(composed("augmentation=[flip,crop]", "augmentation.flip.p=0.25"))["augmentation"]
    assert words(config, config) == "flip p=0.25 alternate=false, crop padding=auto fill=0 padding_mode=constant"


def test_a_preview_shows_the_pipeline():
    """The original of each row, then its draws: with flip.p=1 mirrored, with p=0.5 some; draws of items differ."""
    config, splits, normalize = digits()
    preview = Preview(splits, normalize, 0, rows=3, draws=6)
    assert len(set(preview.names)) == 3 and [splits.classes[y] for y in preview.labels] == preview.names
    nodes = config["augmentation"]
    always = preview.grid({"flip": Flip(1.0)}, nodes)
    sometimes = preview.grid({"flip": Flip(0.5)}, nodes)
    for image in preview.images:
        (original,) = places(always, image, 96)
        mirrored = places(always, image.flip(-1), 96)
        assert len(mirrored) == 6 and {top for top, _ in mirrored} == {original[0]}
        assert min(left for _, left in mirrored) > original[1]
        plain, other = places(sometimes, image, 96), places(sometimes, image.flip(-1), 96)
        assert len(plain) + len(other) == 7 and len(other) > 0
    assert np.array_equal(sometimes, Preview(splits, normalize, 0, 3, 6).grid({"flip": Flip(0.5)}, nodes))
    assert not np.array_equal(sometimes, Preview(splits, normalize, 1, 3, 6).grid({"flip": Flip(0.5)}, nodes))


def test_a_preview_shows_what_enters_the_network(shared):
    """Photos are kept larger: the original is their centre, as at test time, each byte as it is stored."""
    words = ("data=image_folder", f"data.root={shared / 'flowers'}", "data.resize=24", "data.size=16", "task=preview")
    splits = Resources().splits(check(composed(*words)), CPU)
    preview = Preview(splits, Normalize(splits, CPU, torch.contiguous_format), 0, 2, 1)
    assert preview.images.shape == (2, 3, 24, 24)
    assert torch.equal(preview.original, preview.images[..., 4:20, 4:20])


def test_mixed_images_are_shown_with_their_targets():
    """The stack sees each column as a batch: here the rows change places, and targets tell the shares."""

    class Swap(Item):
        def mix(self, images, targets, num_classes, generator):
            mine = soft(targets, num_classes)
            return images.flip(0), 0.3 * mine + 0.7 * mine.flip(0)

    config, splits, normalize = digits()
    preview = Preview(splits, normalize, 0, rows=2, draws=3)
    config["regularization"] = {"swap": {}}
    told = []
    preview.picture = lambda drawn, title, labels: told.append((drawn, title, labels))
    mixed(preview, {}, {"swap": Swap()}, config)
    ((drawn, title, labels),) = told
    assert torch.equal(drawn, preview.images.flip(0)[:, None].expand(-1, 3, -1, -1, -1))
    first, second = preview.names
    assert labels == [[f"{second} .70 / {first} .30"] * 3, [f"{first} .70 / {second} .30"] * 3]
    assert title == "swap"
    del preview.picture
    told, plain = (preview.picture(drawn, title, below) for below in (labels, None))
    assert told.shape[0] > plain.shape[0] and not np.array_equal(told[: len(plain)], plain)
    for image in preview.images:  # the draws are in the other row, so there are three and the original
        assert len(places(told, image, 96)) == 4 == len(places(plain, image, 96))


# -- the task -------------------------------------------------------------------------------------------------------


def test_the_task_leaves_a_picture_of_the_pipeline_and_of_each_item(cli, tmp_path):
    """Listed in the result, as large as asked, the stored images first; in TensorBoard and on the page as well."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("augmentation=[flip,crop]", "augmentation.flip.p=1", "task.images=4", "task.draws=3", "name=p")
    code, out, err = cli(*WORDS, *words)
    assert (code, err) == (0, "")
    result = result_of(tmp_path / "outputs" / "p")
    assert result["status"] == "done" and result["pictures"] == ["preview.png", "preview_flip.png", "preview_crop.png"]
    assert "pictures preview.png, preview_flip.png, preview_crop.png" in out
    (folder,) = (tmp_path / "outputs" / "p").glob("task=*")
    assert sorted(file.name for file in folder.glob("*.png")) == sorted(result["pictures"])
    pictures = {file.stem: np.asarray(Image.open(file)) for file in folder.glob("*.png")}
    _, splits, _ = digits()
    rows = varied(splits.train, 4, generator(0, "images of the preview"))
    images, labels = next(splits.train.batches(rows[None]))
    assert len(set(labels.tolist())) == 4
    tops, lefts = [], set()
    for image in images:
        originals = [places(picture, image, 144) for picture in pictures.values()]
        top, left = originals[0][0]
        assert all(found[0] == (top, left) for found in originals)  # the same original in every picture
        tops, lefts = [*tops, top], lefts | {left}
        mirrored = places(pictures["preview_flip"], image.flip(-1), 144)
        assert len(mirrored) == 3 and {y for y, _ in mirrored} == {top}
    assert tops == sorted(set(tops)) and len(lefts) == 1
    assert not np.array_equal(pictures["preview"], pictures["preview_flip"])
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    assert events.Tags()["images"] == ["preview", "preview/flip", "preview/crop"]
    shown = np.asarray(Image.open(io.BytesIO(events.Images("preview/crop")[0].encoded_image_string)))
    assert np.array_equal(shown, pictures["preview_crop"])
    page = (tmp_path / "outputs" / "p" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3


def test_nothing_of_the_training_is_part_of_a_preview(cli):
    """Whatever cannot be seen makes no new run; what can be seen does."""
    words = (*WORDS, "augmentation=[flip]", "log.tensorboard=false", "task.images=2", "task.draws=1", "name=p")
    assert cli(*words)[0] == 0
    other = ("optimizer=sgd", "schedule=cosine", "epochs=3", "batch_size=32", "early_stopping.patience=2")
    assert "0 to run, 1 done already" in cli(*words, *other, "dry_run=true")[1]
    for seen in ("seed=1", "augmentation.flip.p=0.1", "task.draws=2", "data.limit=200"):
        again = [word for word in words if not word.startswith(seen.partition("=")[0])]
        assert "1 to run" in cli(*again, seen, "dry_run=true")[1]


def test_the_stack_is_shown_where_it_mixes(cli, tmp_path):
    """A picture more, with targets in words; alone it needs no pipeline. Dropout is nothing to see."""
    words = (*WORDS, "task.images=2", "task.draws=1", "log.tensorboard=false")
    assert cli(*words, "regularization=[label_smoothing]", "name=m")[0] == 0
    assert result_of(tmp_path / "outputs" / "m")["pictures"] == ["preview_mixed.png"]
    assert cli(*words, "regularization=[dropout]", "augmentation=[crop]", "name=d")[0] == 0
    assert result_of(tmp_path / "outputs" / "d")["pictures"] == ["preview.png", "preview_crop.png"]


@pytest.mark.parametrize(
    "words, line",
    [
        ((), "augmentation=[]: nothing to preview; list what shall be seen: 'augmentation=[crop,flip]'"),
        (("regularization=[dropout]",), "augmentation=[]: nothing to preview"),
        (("task.images=0",), "task.images=0: must be at least 1"),
        (("task.draws=0",), "task.draws=0: must be at least 1"),
        (("surface=ravine", "augmentation=[flip]"), "surface=ravine: this task has no use for it"),
        (("augmentation=[crop]", "augmentation.crop.padding=9"), "augmentation.crop.padding=9: more than the image's"),
    ],
)
def test_what_cannot_be_shown_is_refused(words, line, cli, tmp_path):
    """One line, exit code 2, nothing made."""
    code, _, err = cli(*WORDS, *words)
    assert code == 2 and err.startswith(f"runner: {line}") and err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


# -- every run ------------------------------------------------------------------------------------------------------


def test_every_run_shows_its_augmentation_and_is_not_changed_by_it(cli, tmp_path):
    """TensorBoard has the pipeline's picture beside the first batch; numbers are those of a run that shows none."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ("threads=1", "data.limit=300", "epochs=1", "model=mlp", "regularization=[dropout]")
    pipeline = "augmentation=[flip,randaugment]"
    assert cli(*words, pipeline, "log.images=4", "name=seen")[0] == 0
    assert cli(*words, pipeline, "log.images=0", "name=unseen")[0] == 0
    assert cli(*words, "log.images=4", "name=plain")[0] == 0

    def of(name):
        (folder,) = (tmp_path / "outputs" / name).glob("*/result.json")
        rows = list(csv.DictReader((folder.parent / "metrics.csv").read_text().splitlines()))
        events = EventAccumulator(str(folder.parent), size_guidance={"images": 0}).Reload()
        return [{k: v for k, v in row.items() if k != "seconds"} for row in rows], events

    (seen, events), (unseen, others), (_, plain) = of("seen"), of("unseen"), of("plain")
    assert seen == unseen
    tags = {"train/first_batch", "train/augmentation"}
    assert tags & set(events.Tags()["images"]) == tags
    assert not tags & set(others.Tags()["images"])
    assert tags & set(plain.Tags()["images"]) == {"train/first_batch"}
    shown = np.asarray(Image.open(io.BytesIO(events.Images("train/augmentation")[0].encoded_image_string)))
    _, splits, normalize = digits()
    images = Preview(splits, normalize, 0, rows=4, draws=1).images
    assert len({rows[0] for rows in (places(shown, image, 80)[0] for image in images)}) == 4
