"""The spec's `data.subset:` section: which part of the training images a method is pretrained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ssl_sweep.data.identity import image_names
from ssl_sweep.data.items import is_held_out, put_together
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Data, open_data

OWN_ENCODER = "encoder"  # as `from`: the trial's own encoder as it begins
# the knobs that decide the choice, by method; beside them `from`, where features do
USED = {
    "random": ("fraction", "seed"),
    "prototypes": ("fraction", "seed", "clusters", "prefer"),
    "semdedup": ("fraction", "threshold", "seed", "clusters"),
    "sas": ("fraction", "classes"),
}


@dataclass(frozen=True, kw_only=True)
class Subset:
    """How a part of the images is chosen; the spec has the knob `from` besides, `origin` here."""

    method: Annotated[
        Literal["random", "prototypes", "semdedup", "sas"],
        Field(
            description="random; prototypes: by the distance to the own k-means centre; semdedup: without near "
            "duplicates in a cluster; sas: the most similar to the rest of their class"
        ),
    ]
    fraction: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(description="share of the images that is kept; 1: all, whatever the method; null with `threshold`"),
    ] = None
    threshold: Annotated[
        Annotated[float, Field(ge=-1, lt=1)] | None,
        Field(description="semdedup: of images of a cluster with a higher cosine one stays; null: by `fraction`"),
    ] = None
    clusters: Annotated[int, Field(ge=1, description="clusters of k-means")] = 100
    prefer: Annotated[
        Literal["easy", "hard"],
        Field(description="prototypes: images near their centre (easy), better for few, or far from it (hard)"),
    ] = "easy"
    classes: Annotated[
        Literal["labels", "clusters"],
        Field(description="sas: latent classes are the labels, or clusters of k-means in their place"),
    ] = "clusters"
    seed: Annotated[
        Annotated[int, Field(ge=0, lt=2**31)] | Literal["per_seed"],
        Field(description="seed of the draw and of k-means; per_seed: another choice for each seed of a trial"),
    ] = "per_seed"
    origin: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if the knobs do not fit together."""
        if self.threshold is not None and self.method != "semdedup":
            raise ValueError(f"data.subset: threshold {self.threshold} is of semdedup; leave it out of {self.method}")
        if self.fraction is None and self.threshold is None:
            or_threshold = " or a threshold" if self.method == "semdedup" else ""
            raise ValueError(f"data.subset: {self.method} needs a fraction{or_threshold}; write, say, fraction: 0.2")
        if self.fraction is not None and self.threshold is not None:
            both = f"fraction {self.fraction} and threshold {self.threshold}"
            raise ValueError(f"data.subset: {both} are both given; leave one out (null)")
        if self.needs_features and self.origin is None:
            remedy = "write `from: SWEEP`, an earlier sweep whose best encoder gives them"
            raise ValueError(f"data.subset: {self.method} needs features; {remedy}")

    @property
    def is_whole(self) -> bool:
        """Whether all images are kept."""
        return self.fraction == 1

    @property
    def needs_features(self) -> bool:
        """Whether an encoder's features decide."""
        return self.method != "random" and not self.is_whole

    @property
    def needs_clusters(self) -> bool:
        """Whether the images are clustered."""
        return self.needs_features and (self.method != "sas" or self.classes == "clusters")

    @property
    def decisive(self) -> dict[str, Any]:
        """The knobs that can change the choice, as a spec has them."""
        if self.is_whole:
            return {}
        names = {*USED[self.method], *(("clusters", "seed") if self.needs_clusters else ())}
        own = {name: getattr(self, name) for name in ("method", *sorted(names))}
        return {**own, "from": self.origin} if self.needs_features else own

    def size_of(self, images: int) -> int | None:
        """How many of so many images are kept; None if only their features tell."""
        return None if self.fraction is None else max(1, round(self.fraction * images))


def subset_of(data: Mapping[str, Any]) -> Subset | None:
    """The subset of a config's `data` section; None where it has none, or one with all images. Raises ValueError."""
    settings = data.get("subset")
    if settings is None:
        return None
    subset = Subset(origin=settings.get("from"), **{name: each for name, each in settings.items() if name != "from"})
    return None if subset.is_whole else subset


def origin_of(config: Mapping[str, Any]) -> str | None:
    """The earlier sweep or trial whose encoder chooses a trial's images; None if none does."""
    subset = subset_of(config["data"])
    used = subset is not None and subset.needs_features and subset.origin != OWN_ENCODER
    return subset.origin if subset is not None and used else None


def images_pretrained_on(config: Mapping[str, Any], train_images: int) -> int:
    """How many of the training images a trial's method sees; the most, where only their features tell."""
    subset = subset_of(config["data"])
    size = None if subset is None else subset.size_of(train_images)
    return train_images if size is None else size


def names_of(pack: Pack, data: Data, root: Path) -> list[str]:
    """The name of each image of a part of the training split, in its order; below the set's folder, without it."""
    source = open_data(data, root=root)
    whole = data.labelled is not None and is_held_out(source)
    images = put_together(source.contents).train if whole else source.train
    names, skipped = image_names(images, source), set(pack.skipped)
    if skipped:
        names = [name for row, name in enumerate(names) if images.name(row) not in skipped]
    return [names[position] for position in pack.positions.tolist()]
