"""A set streamed a window at a time: the images of the set in memory, always in the same order, and few at once."""

import io
import itertools
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hemalens.core.config import TrainConfig
from hemalens.core.errors import DecodeError
from hemalens.core.types import encode_labels
from hemalens.data.reading.load import load_images
from hemalens.data.sources import Source, open_source
from hemalens.training import streaming
from hemalens.training.feed import Batch, Feed, MemoryFeed
from hemalens.training.streaming import StreamFeed, choose_window, open_feed
from hemalens.training.tensors import LabelledImages

MakeConfig = Callable[..., TrainConfig]
CPU = torch.device("cpu")
CLASSES = ("basophil", "platelet", "monocyte")
COUNT = 150


def noise(row: int, side: int = 20) -> np.ndarray:
    return np.random.default_rng(row).integers(0, 256, (side, side, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_folders(path: Path, count: int = COUNT) -> Path:
    for row in range(count):
        file = path / CLASSES[row % 3] / f"{row:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(noise(row)))
    return path


def write_shards(path: Path) -> Path:
    """Four shards in the layout of WebDataset: ``key.png`` beside ``key.cls``."""
    path.mkdir()
    for shard in range(4):
        with tarfile.open(path / f"cells-{shard:03d}.tar", "w") as tar:
            for row in range(shard, COUNT, 4):
                for suffix, data in (("cls", str(row % 3).encode()), ("png", png(noise(row)))):
                    member = tarfile.TarInfo(f"{row:04d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return path


def write_npz(path: Path) -> Path:
    images = np.stack([noise(row) for row in range(COUNT)])
    np.savez(path.with_suffix(".npz"), images=images, labels=np.arange(COUNT) % 3)
    return path.with_suffix(".npz")


WRITERS = {"folders": write_folders, "shards": write_shards, "npz": write_npz}


@pytest.fixture(params=WRITERS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return open_source(WRITERS[request.param](tmp_path / "cells"))


@pytest.fixture
def folders(tmp_path: Path) -> Source:
    return open_source(write_folders(tmp_path / "cells"))


def chosen_of(source: Source) -> tuple[list[int], np.ndarray]:
    """Four fifths of the samples are the training set."""
    indices = [index for index in range(len(source)) if index % 5]
    return indices, encode_labels([source.samples[index].label for index in indices], source.classes)


def in_memory(source: Source, config: TrainConfig) -> MemoryFeed:
    indices, labels = chosen_of(source)
    images = load_images(source, indices, size=config.image_size, workers=0)
    return MemoryFeed(
        LabelledImages(images, labels, tuple(source.samples[index].sample_id for index in indices)), config, CPU
    )


def streamed(source: Source, config: TrainConfig, *, window: int = 30, workers: int = 0) -> StreamFeed:
    return StreamFeed(source, *chosen_of(source), config, CPU, window=window, workers=workers)


def rows(batches: Iterator[Batch] | list[Batch]) -> list[tuple[int, int, int, bytes]]:
    return [
        (index, key, label, image.numpy().tobytes())
        for batch in batches
        for index, key, label, image in zip(
            batch.indices.tolist(), batch.keys.tolist(), batch.labels.tolist(), batch.images, strict=True
        )
    ]


@pytest.mark.parametrize("balance", ["none", "replicate", "sampler"])
def test_an_epoch_shows_what_it_shows_of_the_set_in_memory(source: Source, quick: MakeConfig, balance: str) -> None:
    config = quick(balance=balance, per_class=50, batch_size=16)
    memory, stream = in_memory(source, config), streamed(source, config)
    assert stream.steps() == memory.steps()
    assert stream.sample_ids == memory.sample_ids
    assert np.array_equal(stream.labels, memory.labels)
    for epoch in (1, 2, 3):
        shown, wanted = rows(stream.epoch(epoch)), rows(memory.epoch(epoch))
        assert shown != wanted
        assert sorted(shown) == sorted(wanted)


@pytest.mark.parametrize("source", ["shards", "npz"], indirect=True)
def test_workers_change_nothing(source: Source, quick: MakeConfig) -> None:
    config = quick(balance="replicate", per_class=50, batch_size=16)
    alone = [rows(streamed(source, config).epoch(epoch)) for epoch in (1, 2)]
    with streamed(source, config, workers=2) as feed:
        assert [rows(feed.epoch(epoch)) for epoch in (1, 2)] == alone


@pytest.mark.parametrize("window", [1, 5, 16, 40])
def test_an_epoch_is_the_same_however_the_run_came_to_it(folders: Source, quick: MakeConfig, window: int) -> None:
    config = quick(batch_size=16)
    whole = streamed(folders, config, window=window)
    epochs = {epoch: rows(whole.epoch(epoch)) for epoch in (1, 2, 3)}
    resumed = streamed(folders, config, window=window)
    assert rows(resumed.epoch(3)) == epochs[3]
    broken_off = resumed.epoch(1)
    next(broken_off)
    assert rows(resumed.epoch(2)) == epochs[2]
    assert rows(resumed.epoch(1)) == epochs[1]
    assert len(set(map(tuple, epochs.values()))) == 3


def test_a_window_that_holds_all_gives_the_batches_of_the_set_in_memory(folders: Source, quick: MakeConfig) -> None:
    config = quick(batch_size=16)
    wanted = rows(in_memory(folders, config).epoch(2))
    assert rows(streamed(folders, config, window=120).epoch(2)) == wanted


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch_and_decode_no_more_than_they_need(
    folders: Source, quick: MakeConfig, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick(batch_size=16, epochs=1)
    alone = list(streamed(folders, config).epoch(1))
    decoded: list[int] = []
    read = type(folders).read  # each image that is decoded is read first
    monkeypatch.setattr(type(folders), "read", lambda self, index: decoded.append(index) or read(self, index))
    shares = [list(streamed(folders, config).epoch(1, rank=rank, world=world)) for rank in range(world)]
    for step, batch in enumerate(alone):
        assert sorted(rows([share[step] for share in shares])) == sorted(rows([batch]))
        assert {share[step].size for share in shares} == {16}
    assert len(decoded) == len(set(decoded)) == 7 * 16


def test_a_process_without_a_image_in_a_step_still_takes_it(folders: Source, quick: MakeConfig) -> None:
    batches = list(streamed(folders, quick(batch_size=2)).epoch(1, rank=2, world=3))
    assert len(batches) == 60
    assert {(len(batch.indices), batch.size) for batch in batches} == {(0, 2)}


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_than_two_windows_are_in_memory_and_one_without_workers(
    tmp_path: Path, quick: MakeConfig, workers: int
) -> None:
    size, window, count = 64, 256, 1280
    write_folders(tmp_path, count)
    source = open_source(tmp_path)
    labels = encode_labels([sample.label for sample in source.samples], source.classes)
    config = quick(image_size=size, batch_size=16, epochs=2)
    feed = StreamFeed(source, range(count), labels, config, CPU, window=window, workers=workers)
    next(feed.epoch(2))  # imports, workers and caches are no images
    tracemalloc.start()  # of numpy's arrays too, whichever thread makes them
    try:
        shown = 0
        for batch in itertools.chain(feed.epoch(1), feed.epoch(2)):
            shown += len(batch.indices)
            ahead = feed._ahead[2] if feed._ahead else []
            wait([future for _, future in ahead if future is not None])  # a slow training: all ahead is decoded
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        feed.close()
    assert shown == 2 * count
    handed_over = 4 * 32  # chunks on their way: as the bytes that came, and as the arrays made of them
    assert peak / (3 * size * size) < (2 if workers else 1) * window + 2 * 16 + handed_over


def test_the_next_window_is_begun_before_the_present_one_is_used(
    folders: Source, quick: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    for name in ("begin", "finish"):
        method = getattr(streaming.Decoder, name)
        monkeypatch.setattr(
            streaming.Decoder,
            name,
            lambda self, what, name=name, method=method: told.append(name) or method(self, what),
        )
    feed = streamed(folders, quick(batch_size=20, epochs=2), window=40)
    for _ in feed.epoch(1):
        told.append("batch")
    assert told == ["begin", *(["begin", "finish", "batch", "batch"] * 3)]  # the last begins the next epoch's first
    told.clear()
    for _ in feed.epoch(2):
        told.append("batch")
    assert told == [*(["begin", "finish", "batch", "batch"] * 2), "finish", "batch", "batch"]


def test_any_images_are_given_at_hand_or_not(source: Source, quick: MakeConfig) -> None:
    memory, stream = in_memory(source, quick()), streamed(source, quick())
    indices = torch.tensor([119, 0, 7, 119, 60])
    assert torch.equal(stream.images(indices), memory.images(indices))
    batch = next(stream.epoch(1))
    mixed = torch.cat([indices, batch.indices])
    assert torch.equal(stream.images(mixed), memory.images(mixed))
    assert np.array_equal(stream.sample(50), memory.sample(50))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_that_cannot_be_read_is_named(tmp_path: Path, quick: MakeConfig, workers: int) -> None:
    write_folders(tmp_path)
    (tmp_path / "platelet" / "0001.png").write_bytes(b"no image")
    indices = range(COUNT)
    source = open_source(tmp_path)
    labels = encode_labels([sample.label for sample in source.samples], source.classes)
    config = quick(batch_size=2)
    with (
        StreamFeed(source, indices, labels, config, CPU, window=30, workers=workers) as feed,
        pytest.raises(DecodeError, match=r"platelet/0001\.png"),
    ):
        list(feed.epoch(1))


@pytest.mark.parametrize(
    ("count", "memory_gb", "processes", "window"),
    [
        (1000, 1.0, 1, 0),
        (81_380, 1.0, 1, 0),  # of 12,288 bytes each: as many as fit
        (81_381, 1.0, 1, 16_384),
        (50_000, 1.0, 2, 16_384),
        (1000, 0.005, 1, 203),
        (1000, 1e-6, 1, 64),  # a batch at least
    ],
)
def test_a_set_is_streamed_where_memory_has_no_room(count: int, memory_gb: float, processes: int, window: int) -> None:
    config = TrainConfig(memory_gb=memory_gb, image_size=64, batch_size=64)
    assert choose_window(count, config, CPU, processes=processes) == window


def test_half_of_what_is_free_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "available_memory", lambda: 2 * 12_288 * 1000)
    config = TrainConfig(image_size=64, batch_size=64)
    assert choose_window(1000, config, CPU) == 0
    assert choose_window(1001, config, CPU) == 500


def test_opening_loads_what_fits_and_streams_what_does_not(folders: Source, quick: MakeConfig) -> None:
    def opened(**keys: object) -> Feed:
        return open_feed(folders, indices, labels, quick(batch_size=16, **keys), CPU, window=windows.pop())

    indices, labels = chosen_of(folders)
    wanted = sorted(rows(in_memory(folders, quick(batch_size=16)).epoch(1)))
    windows: list[int | None] = [None, 24, None]
    with opened() as memory, opened() as told, opened(memory_gb=6e-5) as small:
        assert isinstance(memory, MemoryFeed)
        assert [type(feed) for feed in (told, small)] == [StreamFeed, StreamFeed]
        assert (memory.window, told.window, small.window) == (0, 24, 39)
        assert all(sorted(rows(feed.epoch(1))) == wanted for feed in (memory, told, small))


@pytest.mark.real_data
def test_real_cells_stream_from_their_shards(real_data: Path, quick: MakeConfig) -> None:
    source = open_source(real_data / "pbc")
    indices = [index for index, sample in enumerate(source.samples) if sample.label][:300]
    labels = encode_labels([source.samples[index].label for index in indices], source.classes)
    config = quick(image_size=32, batch_size=32, epochs=1)
    with StreamFeed(source, indices, labels, config, CPU, window=128, workers=1) as feed:
        images = load_images(source, indices, size=32, workers=0)
        for batch in feed.epoch(1):
            assert np.array_equal(batch.images, images[batch.indices])
