"""The specs of experiments/ give the views with which the results of LOG.md were measured."""

import hashlib
import json
from pathlib import Path

import pytest

from ssl_sweep.spec.choices import to_construct
from ssl_sweep.spec.file import load_spec
from ssl_sweep.spec.sweep import Range, grid, resolve, space

FOLDER = Path(__file__).parents[2] / "experiments"
VIEWS = {  # a hash of the resolved views of the choices, taken before there were recipes
    "coreset/cifar10_small": "979d89119233",
    "coreset/encoder_small": "315f5b022b01",
    "drlim/mnist49": "d13766dba13d",
    "drlim/mnist49_small": "d13766dba13d",
    "exemplar/cifar10": "6c5e4a0234c1",
    "exemplar/cifar10_small": "6c5e4a0234c1",
    "featmix/cifar10": "8cecdfc00f4b",
    "featmix/cifar10_small": "8cecdfc00f4b",
    "leoclr/detection_bccd_small": "9544e20d0e76",
    "leoclr/detection_voc": "8ca0f3d6e77f",
    "leoclr/figure4_augmentations": "fceee7558d9c",
    "leoclr/figure4_augmentations_small": "3f6f957d6d49",
    "leoclr/moco_curve": "315f5b022b01",  # crops from 8 %, as its notebook; LOG.md has a run with 20 %
    "leoclr/semi_supervised_small": "9544e20d0e76",
    "leoclr/table5_simclr": "abd8564e794e",
    "leoclr/table5_simclr_small": "443bfc6e8b9c",
    "leoclr/table6_cifar10": "9544e20d0e76",
    "leoclr/table6_cifar10_small": "9544e20d0e76",
    "leoclr/table6_stl10": "20fab3d31281",
    "leoclr/table7_crops": "20fab3d31281",
    "leoclr/tables123_imagenet": "20fab3d31281",
    "methods/budget_cifar10_small": "48e0dd56fd7d",
    "methods/cifar10_small": "fdd04e4dcbd4",
    "methods/moco_v3_cifar10_small": "e4a447317674",
    "methods/simmim_cifar10_small": "8ce214cb03b3",
    "methods/swav_cifar10_small": "8d3a40c4d113",
    "overlay/contrastive": "4c7fb4abb3f9",
    "overlay/contrastive_small": "4c7fb4abb3f9",
    "overlay/flowers": "26bb2069e223",
    "overlay/table1": "006b73f774f3",
    "overlay/table2": "7ae7a6bf305a",
    "quickstart": "19b856e7ae13",
    "quickstart_pruned": "f251025e1a67",
}


def test_every_spec_is_here() -> None:
    assert {str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml")} == VIEWS.keys()


@pytest.mark.parametrize("name", VIEWS)
def test_the_views_are_those_of_the_log(name: str) -> None:
    spec = load_spec(FOLDER / f"{name}.yaml")
    if spec.search.sampler == "grid":
        choices = grid(spec)
    else:
        choices = [choice for choice, *_ in to_construct(spec.search)] or [
            {
                path: values.low if isinstance(values, Range) else values.values[0]
                for path, values in space(spec).items()
            }
        ]
    views = [resolve(spec, choice, 0)["views"] for choice in choices]
    assert hashlib.sha256(json.dumps(views, sort_keys=True).encode()).hexdigest()[:12] == VIEWS[name]


def test_only_files_that_say_what_is_not_the_papers_show_its_figures() -> None:
    paths = sorted(FOLDER.rglob("*.yaml"))
    shown = [path for path in paths if load_spec(path).table.published]
    assert {path.stem for path in shown} == {
        "detection_voc", "figure4_augmentations", "table1", "table2", "table5_simclr", "table6_cifar10", "table6_stl10",
        "table7_crops", "tables123_imagenet",
    }  # fmt: skip
    assert [path for path in shown if "\n# Not as in the paper" not in path.read_text().partition("\nname:")[0]] == []
