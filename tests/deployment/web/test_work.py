"""What processes do with a file: rows, statuses, costs."""

import io
import json
import pickle
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from hemalens.core.errors import RequestError
from hemalens.deployment.web.limits import Limits
from hemalens.deployment.web.work import Answer, InferTask, PictureTask, Upload, Work, unpack
from tests.deployment.conftest import Exported
from tests.deployment.web.conftest import Cells, encode


@pytest.fixture(scope="module")
def work(exported: Exported) -> Work:
    made = pickle.loads(pickle.dumps(Work(exported.onnx, Limits(pixels=10_000))))  # as a process gets it
    made.open()
    return made


def test_good_and_bad_pictures_of_a_batch_keep_their_places(work: Work, cells: Cells) -> None:
    large = encode(np.zeros((101, 100, 3), np.uint8))
    data = [encode(cells.kept[0]), b"", large, encode(cells.kept[0])[:50], encode(cells.refused)]
    answers = work([PictureTask(Upload(str(place), one)) for place, one in enumerate(data)])
    assert [answer.status for answer in answers] == [200, 415, 413, 422, 200]
    assert [answer.kind for answer in answers] == ["answered", *["unreadable"] * 3, "abstained"]
    assert [json.loads(answer.body)["sample_id"] for answer in answers] == ["0", "1", "2", "3", "4"]


def test_pictures_for_the_page_are_small_whatever_was_sent(exported: Exported) -> None:
    work = Work(exported.onnx, Limits())
    work.open()
    (answer,) = work([PictureTask(Upload("a", encode(np.full((1000, 600, 3), 90, np.uint8), "JPEG")), heat_map=True)])
    row = json.loads(answer.body)
    assert (row["width"], row["height"]) == (600, 1000)
    assert len(row["picture"]) + len(row["heat_map"]) < 30_000


def test_costs_come_from_headers() -> None:
    assert PictureTask(Upload("a", encode(np.zeros((20, 30, 3), np.uint8)))).cost == 600
    assert PictureTask(Upload("a", b"no picture")).cost == 0
    assert PictureTask(Upload("a", encode(np.zeros((20, 30, 3), np.uint8), "TIFF"))).cost > 1 << 30
    assert InferTask(b"").cost > 1 << 30


def test_errors_of_requests_cross_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(RequestError(413, "body", "is large", "cut it", retry=3)))
    assert (error.status, error.retry, str(error)) == (413, 3, "body: is large; cut it")


def test_a_zip_of_very_many_members_is_refused_before_its_directory_is_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(50_000):
            archive.writestr(f"__MACOSX/{number}", b"")
    data = bytearray(buffer.getvalue())
    data[-12:-10] = data[-14:-12] = b"\x01\x00"  # the end record lies: one member
    begin = time.process_time()
    with pytest.raises(RequestError, match="holds 50,000 members, the limit is 4,096") as caught:
        unpack(Upload("a.zip", bytes(data)), Limits())
    assert caught.value.status == 413
    assert time.process_time() - begin < 0.3, "reading the directory takes a second and more"


class Hungry(Work):
    """Takes as many MiB as the picture's name says."""

    def _answer_pictures(self, tasks: list[PictureTask]) -> list[Answer]:
        taken = [bytearray(int(task.upload.name) << 20) for task in tasks]
        return [Answer(200, b"%d" % len(taken[0])) for _ in tasks]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds to the limit")
def test_what_takes_too_much_memory_together_is_answered_one_by_one() -> None:
    code = """
import sys
from pathlib import Path
from hemalens.deployment.web.limits import Limits
from hemalens.deployment.web.work import InferTask, PictureTask, Upload, limit_memory
from tests.deployment.web.test_work import Hungry
limit_memory(300 << 20)
work = Hungry(Path("none"), Limits())
print([answer.status for answer in work([PictureTask(Upload(name, b"")) for name in ("10", "200", "200", "1000000")])])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[200, 200, 200, 413]\n"
