"""What needs labels is refused where there are none: evaluations, objectives, pruners and methods."""

from typing import Any

import pytest

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, Source
from ssl_sweep.data.summary import Summary
from ssl_sweep.spec.labels import check_labels, unmeasured
from ssl_sweep.spec.sweep import SweepSpec, from_dump


def read_nothing() -> Contents:
    raise AssertionError("a summary is enough")


DIGITS = Source("digits", {}, read_nothing)
ALL = Summary(90, 10, 20, 3, 0, (), (), DIGITS)
NONE = Summary(90, 10, 20, 0, 120, ("train", "val", "test"), (), DIGITS)
NO_TEST = Summary(90, 10, 20, 3, 20, ("test",), (), DIGITS)
BY_OTHERS = Summary(120, 0, 0, 0, 120, ("train", "val", "test"), (), DIGITS, labelled=ALL)
LABEL_FREE = {"evaluate": {"label_free": {}}, "search": {"objective": "maximize label_free/lidar_val"}}


def spec(**changes: Any) -> SweepSpec:
    base = {
        "name": "labels",
        "data": {"source": "imagefolder:photos", "image_size": 8},
        "encoder": {"name": "resnet18", "width": 8},
        "method": "simclr",
        "evaluate": {"knn": {}},
    }
    return from_dump({**base, **changes})


def refused(wanted: SweepSpec, summary: Summary) -> str:
    with pytest.raises(DataError) as caught:
        check_labels(wanted, summary)
    return str(caught.value)


def test_each_evaluation_that_needs_labels_is_named_with_the_source_and_the_remedy() -> None:
    said = refused(spec(evaluate={"knn": {}, "linear": {"epochs": 1}, "label_free": {}}), NONE).splitlines()
    assert [line.partition(":")[0] for line in said] == ["evaluate.knn", "evaluate.linear"]
    assert all("no image of 'imagefolder:photos' has one; name images with labels, as data.labelled" in x for x in said)


def test_a_split_that_lacks_labels_is_named() -> None:
    said = refused(spec(), NO_TEST)
    assert "no test image of 'imagefolder:photos' has one; name a split with labels, as data.splits: {test: val" in said


def test_the_columns_in_which_labels_are_looked_for_are_named() -> None:
    said = refused(spec(data={"source": "parquet:photos", "image_size": 8}), NONE)
    assert "no image of 'parquet:photos' has one (in a column label or labels or " in said


def test_a_labelled_set_without_labels_is_named() -> None:
    wanted = spec(data={"source": "digits", "labelled": "imagefolder:photos", "image_size": 8})
    assert "'imagefolder:photos'" in refused(
        wanted, Summary(90, 0, 0, 10, 0, ("val", "test"), (), DIGITS, labelled=NONE)
    )


@pytest.mark.parametrize("summary", [ALL, BY_OTHERS])
def test_with_labels_nothing_is_refused(summary: Summary) -> None:
    check_labels(spec(search={"objective": "maximize pretrain/knn_top1_val"}), summary)
    assert unmeasured(spec(), summary) is None


def test_without_labels_the_rest_is_as_before() -> None:
    check_labels(spec(**LABEL_FREE), NONE)
    note = unmeasured(spec(**LABEL_FREE), NONE)
    assert note is not None
    assert "health measures no knn_top1_val" in note
    assert unmeasured(spec(**LABEL_FREE, health={"every": 0}), NONE) is None


@pytest.mark.parametrize(
    ("search", "key"),
    [
        ({"objective": "maximize pretrain/knn_top1_val"}, "search.objective"),
        ({**LABEL_FREE["search"], "sampler": "random", "trials": 2, "pruner": "asha"}, "search.prune_on"),
    ],
)
def test_what_judges_by_the_vote_of_neighbours_is_refused(search: dict[str, Any], key: str) -> None:
    if "pruner" in search:
        search = {**search, "space": {"pretrain.lr": {"low": 0.01, "high": 0.1}}}
    said = refused(spec(evaluate={"label_free": {}}, pretrain={"epochs": 20}, search=search), NONE)
    assert said.startswith(f"{key}: 'maximize pretrain/knn_top1_val': needs labels")
    assert "minimize pretrain/loss" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"name": "drlim", "pairs": "label"}},
        {"method": "drlim", "search": {**LABEL_FREE["search"], "space": {"method.pairs": ["neighbours", "label"]}}},
        {"search": {**LABEL_FREE["search"], "cases": {"a": {"method": {"name": "drlim", "pairs": "label"}}, "b": {}}}},
    ],
)
def test_a_method_that_reads_labels_is_refused_wherever_it_is_chosen(changes: dict[str, Any]) -> None:
    wanted = spec(**{**LABEL_FREE, "data": {"source": "imagefolder:photos", "image_size": 16}, **changes})
    for summary in (NONE, BY_OTHERS):
        assert "method: drlim reads labels with these knobs, and no image of 'imagefolder:photos'" in refused(
            wanted, summary
        )
    check_labels(wanted, ALL)
