"""Checkpoints and models on disk: whole or refused by name, the last two kept, the one before fallen back to."""

import logging
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hemalens.core.artifacts import output_directory
from hemalens.core.errors import ArtifactError
from hemalens.training import checkpoint
from hemalens.training.checkpoint import (
    latest_checkpoint,
    load_model,
    model_directory,
    optimizer_tensors,
    read_tensors,
    read_validation,
    restore_optimizer,
    save_checkpoint,
    save_model,
    save_validation,
    write_tensors,
)
from hemalens.training.models import Normalised, build_model
from tests.forking import said_by

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7), "half": torch.ones(2).bfloat16()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(
        one[key].dtype == two[key].dtype and torch.equal(one[key], two[key]) for key in one
    )


def write_run(run: Path) -> torch.nn.Module:
    """Write what a finished training leaves for a model to be loaded."""
    module = Normalised(build_model("compact", 3, seed=1), torch.full((3,), 0.4), torch.full((3,), 0.2))
    with output_directory(run, "train"):
        save_model(run, module, {"model": "compact", "classes": ["a", "b", "c"], "image_size": 16})
        save_validation(run, np.zeros((2, 3), np.float32), np.array([0, 1]))
    return module.eval()


def test_tensors_and_metadata_come_back_as_they_were(tmp_path: Path) -> None:
    transposed = {**STATE, "turned": torch.arange(6).reshape(2, 3).T}
    write_tensors(tmp_path / "x.safetensors", transposed, {"note": "ä"})
    tensors, metadata = read_tensors(tmp_path / "x.safetensors")
    assert same(tensors, transposed)
    assert metadata == {"note": "ä"}


def test_every_flipped_byte_and_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"weight": torch.arange(4.0)})
    whole = path.read_bytes()
    damaged = [whole[:index] + bytes([whole[index] ^ 0x10]) + whole[index + 1 :] for index in range(len(whole))]
    damaged += [whole[:length] for length in range(len(whole))] + [whole + b"\0"]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"x\.safetensors: is damaged"):
            read_tensors(path)


def test_a_missing_file_or_hash_or_a_damaged_hash_is_named(tmp_path: Path) -> None:
    path, beside = tmp_path / "x.safetensors", tmp_path / "x.safetensors.sha256"
    with pytest.raises(ArtifactError, match=r"x\.safetensors: cannot be read"):
        read_tensors(path)
    write_tensors(path, STATE)
    for content in (b"\xff", b"", b"0" * 64):
        beside.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"x\.safetensors"):
            read_tensors(path)
    beside.unlink()
    with pytest.raises(ArtifactError, match=r"x\.safetensors: cannot be read with its \.sha256"):
        read_tensors(path)


def test_the_hash_is_the_one_that_sha256sum_prints(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", STATE)
    recorded = (tmp_path / "x.safetensors.sha256").read_text().strip()
    assert recorded == checkpoint.sha256_file(tmp_path / "x.safetensors")


def test_a_checkpoint_brings_back_tensors_and_state(tmp_path: Path) -> None:
    state = {"epoch": 2, "best_score": 0.5, "history": [{"epoch": 1, "loss": 0.25}]}
    save_checkpoint(tmp_path / "new", STATE, state, epoch=2)
    found = latest_checkpoint(tmp_path / "new")
    assert found is not None
    assert same(found[0], STATE)
    assert found[1] == state


def test_there_is_no_checkpoint_in_an_empty_or_missing_directory(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "missing") is None


def test_only_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 10):
        save_checkpoint(tmp_path, STATE, {"epoch": epoch}, epoch=epoch)
    names = sorted(file.name for file in tmp_path.iterdir())
    kept = ["epoch-0003.safetensors", "epoch-0010.safetensors"]
    assert names == sorted([*kept, *(f"{name}.sha256" for name in kept)])


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, STATE, {"epoch": epoch}, epoch=epoch)
    with (tmp_path / "epoch-0002.safetensors").open("r+b") as file:
        file.truncate(100)
    with caplog.at_level(logging.WARNING):
        found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == {"epoch": 1}
    assert "epoch-0002.safetensors" in caplog.text


def test_a_file_of_ours_that_is_no_checkpoint_is_passed_over(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, STATE, {"epoch": 1}, epoch=1)
    write_tensors(tmp_path / "epoch-0002.safetensors", STATE)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == {"epoch": 1}


def test_starting_anew_after_damage_keeps_the_new_checkpoint_and_not_the_damaged_ones(tmp_path: Path) -> None:
    for epoch in (4, 5):
        save_checkpoint(tmp_path, STATE, {"epoch": epoch}, epoch=epoch).write_bytes(b"damaged")
    path = save_checkpoint(tmp_path, STATE, {"epoch": 1}, epoch=1)
    assert path.exists()
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == {"epoch": 1}


@pytest.mark.parametrize("failing", ["write_text", "write_atomically"])
def test_a_kill_while_writing_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    save_checkpoint(tmp_path, STATE, {"epoch": 1}, epoch=1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, failing, killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, STATE, {"epoch": 2}, epoch=2)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == {"epoch": 1}


def killed(work: str, folder: Path, *words: str) -> dict[str, Any]:
    outcome: dict[str, Any] = said_by(Path(__file__).with_name("kills.py"), work, folder, *words)
    return outcome


def test_200_kills_while_saving_leave_the_last_checkpoint_or_the_one_before(tmp_path: Path) -> None:
    outcome = killed("saving", tmp_path, "200")
    assert outcome["ends"] == {"killed": 200}
    assert outcome["wrong"] == []
    assert outcome["warnings"] == []
    assert outcome["most_left"] <= 1  # the temporary file of the last kill; the one of the kill before is gone
    assert outcome["files_after"] == 4


def test_a_kill_before_any_call_of_the_system_inside_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    outcome = killed("calls", tmp_path)
    assert outcome["kills"] > 30
    assert outcome["wrong"] == []
    assert outcome["warnings"] == []
    assert (outcome["last"], outcome["files_after"]) == (4, 4)


def test_what_killed_saves_left_behind_is_removed_and_what_others_left_is_not(tmp_path: Path) -> None:
    ours = [".epoch-0001.safetensors.ab3_x9zz.tmp", ".epoch-0002.safetensors.sha256.00000000.tmp"]
    theirs = [".mine.tmp", "epoch-notes.txt", ".epoch-0001.safetensors.tmp", "plan.json"]
    for name in [*ours, *theirs, "epoch-0002.safetensors.sha256"]:
        (tmp_path / name).write_text("x")
    save_checkpoint(tmp_path, STATE, {"epoch": 3}, epoch=3)
    kept = ["epoch-0003.safetensors", "epoch-0003.safetensors.sha256"]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*theirs, *kept])


def damage(path: Path, before: Path, chance: random.Random) -> str:
    """Damage a checkpoint or its hash in one of seven ways; return which."""
    data, beside = bytearray(path.read_bytes()), path.with_name(path.name + ".sha256")
    index, kinds = chance.randrange(len(data)), ("bit", "bits", "cut", "zeros", "hash bit", "hash swapped", "no hash")
    kind = chance.choice(kinds)
    if kind == "bit":
        data[index] ^= 1 << chance.randrange(8)
    elif kind == "bits":
        for index in chance.sample(range(len(data)), chance.randrange(2, 40)):
            data[index] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[index:]
    elif kind == "zeros":
        while not any(data[index : index + 64]):
            index = chance.randrange(len(data))
        data[index : index + 64] = bytes(len(data[index : index + 64]))
    elif kind == "hash bit":
        digits = bytearray(beside.read_bytes())
        digits[chance.randrange(64)] ^= 1 << chance.randrange(8)
        beside.write_bytes(digits)
    elif kind == "hash swapped":
        shutil.copyfile(before.with_name(before.name + ".sha256"), beside)
    else:
        beside.unlink()
    path.write_bytes(data)
    return kind


def test_200_damaged_checkpoints_are_all_found_and_named_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance, kinds = random.Random(0), set()
    for epoch in (1, 2):
        weights = torch.rand(500, generator=torch.Generator().manual_seed(epoch))
        save_checkpoint(tmp_path / "whole", {"weights": weights}, {"epoch": epoch}, epoch=epoch)
    for number in range(200):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        newest = folder / "epoch-0002.safetensors"
        kinds.add(kind := damage(newest, folder / "epoch-0001.safetensors", chance))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = latest_checkpoint(folder)
        assert found is not None, kind
        assert found[1] == {"epoch": 1}, kind
        assert len(caplog.messages) == 1, kind
        assert str(newest) in caplog.messages[0], kind
        shutil.rmtree(folder)
    assert len(kinds) == 7


def test_two_hashes_exchanged_leave_no_checkpoint_and_are_both_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [save_checkpoint(tmp_path, {"x": torch.tensor([epoch])}, {"epoch": epoch}, epoch=epoch) for epoch in (1, 2)]
    hashes = [file.with_name(file.name + ".sha256") for file in files]
    first, second = (file.read_text() for file in hashes)
    hashes[0].write_text(second)
    hashes[1].write_text(first)
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path) is None
    for file in files:
        assert f"{file}: is damaged" in caplog.text
    assert f"no checkpoint in {tmp_path} is whole: training starts from the beginning" in caplog.text


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_an_optimizer_goes_on_from_its_tensors_as_if_it_had_not_stopped(kind: str) -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layer = torch.nn.Linear(3, 2)
        if kind == "sgd":
            return layer, torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.tensor([[1.0, 2.0, 3.0]])).square().sum().backward()
        optimizer.step()

    layer, optimizer = make()
    step(layer, optimizer)
    second, resumed = make()
    second.load_state_dict(layer.state_dict())
    restore_optimizer(resumed, {name: value.clone() for name, value in optimizer_tensors(optimizer).items()})
    step(layer, optimizer)
    step(second, resumed)
    assert torch.equal(layer.weight, second.weight)


def test_a_model_is_loaded_whole_and_ready_to_predict(tmp_path: Path) -> None:
    module = write_run(tmp_path / "run" / "train")
    assert model_directory(tmp_path / "run") == tmp_path / "run" / "train"
    for run in (tmp_path / "run", tmp_path / "run" / "train"):
        loaded = load_model(run)
        assert (loaded.classes, loaded.image_size) == (("a", "b", "c"), 16)
        assert not loaded.module.training
        images = torch.rand(2, 3, 16, 16)
        assert torch.equal(loaded.module(images), module(images))
    logits, labels = read_validation(tmp_path / "run" / "train")
    assert logits.shape == (2, 3)
    assert labels.tolist() == [0, 1]


def test_an_unfinished_missing_or_damaged_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere: does not exist"):
        load_model(tmp_path / "nowhere")
    write_run(tmp_path / "whole")
    for name, rule in (
        ("provenance.json", "was not written to its end"),
        ("model.safetensors", "is not what 'train' wrote"),
        ("model.json", "is not what 'train' wrote"),
    ):
        run = shutil.copytree(tmp_path / "whole", tmp_path / name)
        path = run / name
        if name == "provenance.json":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes().replace(b'"c"', b'"d"').replace(b"weight", b"wEight"))
        with pytest.raises(ArtifactError, match=rule):
            load_model(run)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with output_directory(tmp_path / "run", "train"):
        module = Normalised(build_model("baseline", 3), torch.zeros(3), torch.ones(3))
        save_model(tmp_path / "run", module, {"model": "compact", "classes": ["a", "b", "c"], "image_size": 16})
    with pytest.raises(ArtifactError, match="does not fit the network compact"):
        load_model(tmp_path / "run")
