"""What processes do with a file: rows, statuses, costs."""

import json
import pickle

import numpy as np
import pytest

from hemalens.core.errors import RequestError
from hemalens.inference.serve.limits import Limits
from hemalens.inference.serve.work import ImageTask, InferTask, Upload, Work
from tests.exported import Exported
from tests.inference.serve.conftest import Cells, encode


@pytest.fixture(scope="module")
def work(exported: Exported) -> Work:
    made = pickle.loads(pickle.dumps(Work(exported.onnx, Limits(pixels=10_000))))  # as a process gets it
    made.open()
    return made


def test_good_and_bad_images_of_a_batch_keep_their_places(work: Work, cells: Cells) -> None:
    large = encode(np.zeros((101, 100, 3), np.uint8))
    data = [encode(cells.kept[0]), b"", large, encode(cells.kept[0])[:50], encode(cells.refused)]
    answers = work([ImageTask(Upload(str(index), one)) for index, one in enumerate(data)])
    assert [answer.status for answer in answers] == [200, 415, 413, 422, 200]
    assert [answer.kind for answer in answers] == ["answered", *["unreadable"] * 3, "abstained"]
    assert [json.loads(answer.body)["sample_id"] for answer in answers] == ["0", "1", "2", "3", "4"]


def test_images_for_the_page_are_small_whatever_was_sent(exported: Exported) -> None:
    work = Work(exported.onnx, Limits())
    work.open()
    (answer,) = work([ImageTask(Upload("a", encode(np.full((1000, 600, 3), 90, np.uint8), "JPEG")), heat_map=True)])
    row = json.loads(answer.body)
    assert (row["width"], row["height"]) == (600, 1000)
    assert len(row["image"]) + len(row["heat_map"]) < 30_000


def test_costs_come_from_headers() -> None:
    assert ImageTask(Upload("a", encode(np.zeros((20, 30, 3), np.uint8)))).cost == 600
    assert ImageTask(Upload("a", b"no image")).cost == 0
    assert ImageTask(Upload("a", encode(np.zeros((20, 30, 3), np.uint8), "TIFF"))).cost > 1 << 30
    assert InferTask(b"").cost > 1 << 30


def test_errors_of_requests_cross_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(RequestError(413, "body", "is large", "cut it", retry=3)))
    assert (error.status, error.retry, str(error)) == (413, 3, "body: is large; cut it")
