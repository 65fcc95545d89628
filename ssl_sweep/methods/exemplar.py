"""Exemplar-CNN: one class per image, of random transforms of its patch with the most gradient."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import Images
from ssl_sweep.data.seed_patches import Ranges, Transforms, busiest_corners, transformed_patches
from ssl_sweep.data.views import Augment
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.losses import global_feature_std
from ssl_sweep.models.precision import at_least_fp32, full_precision

NUM_CLASSES = 8000  # of the paper's best setting, where the number of training images is not known
Factor = Annotated[float, Field(ge=1)]


class Method(nn.Module):
    """L = mean over transformed seed patches of −log softmax(h(T x_i))_i: the i-th image's patch is class i.

    T moves, scales and rotates the patch, scales its principal colours, raises saturation and value to a power,
    multiplies and shifts them, and shifts the hue. h is the mean of the encoder's feature map (one place for the
    encoder `exemplar`), dropout, and a linear layer.

    *Open*, ours: each image has one seed patch, the one with the most gradient; the paper draws several, with a
    probability that grows with the gradient. Transforms are drawn in each epoch (the paper fixes about a hundred per
    class). Principal components are those of the patch. Factors and powers are log-uniform.

    Patches are cut from whole images: the crop knobs of `views` do not apply. The paper has no flips (views.flip 0).
    The seed patch of a flipped or overlaid image is chosen after the flip or overlay.

    Source: Dosovitskiy, Springenberg, Riedmiller & Brox 2014, "Discriminative Unsupervised Feature Learning with
    Convolutional Neural Networks", equations 1 to 3, sections 2 and 3.1.
    """

    view_recipe = "exemplar"
    num_pictures = 8  # test images, whose numbers are classes too

    def __init__(
        self,
        encoder: Encoder,
        *,
        num_classes: Annotated[
            int | None,
            Field(ge=2, description="surrogate classes, at least as many as training images; null: as many"),
        ] = None,
        patch_size: Annotated[
            int, Field(ge=1, description="side of a patch in pixels; a smaller image is one patch")
        ] = 32,
        shift: Annotated[float, Field(ge=0, le=1, description="maximum move, in patch sides")] = 0.2,
        scale_min: Annotated[float, Field(gt=0, description="smallest window, in patch sides")] = 0.7,
        scale_max: Annotated[float, Field(gt=0, description="largest window, in patch sides")] = 1.4,
        rotation: Annotated[float, Field(ge=0, le=180, description="maximum rotation in degrees")] = 20.0,
        contrast: Annotated[Factor, Field(description="factor along principal colours: 1 / this to this")] = 2.0,
        power: Annotated[Factor, Field(description="power of saturation and value: 1 / this to this")] = 4.0,
        factor_min: Annotated[float, Field(gt=0, description="smallest factor on saturation and value")] = 0.7,
        factor_max: Annotated[float, Field(gt=0, description="largest factor on saturation and value")] = 1.4,
        offset: Annotated[float, Field(ge=0, le=1, description="maximum offset of saturation and value")] = 0.1,
        hue: Annotated[float, Field(ge=0, le=0.5, description="maximum shift on the colour circle")] = 0.1,
        dropout: Annotated[float, Field(ge=0, lt=1, description="share of the features dropped")] = 0.5,
    ) -> None:
        super().__init__()
        if scale_min > scale_max or factor_min > factor_max:
            raise ValueError(
                f"exemplar: scale_min {scale_min} must not exceed scale_max {scale_max}, nor factor_min {factor_min} "
                f"factor_max {factor_max}; lower the minimum"
            )
        num_classes = num_classes or NUM_CLASSES
        self.encoder = encoder
        self.num_features = encoder.map_shape[0]
        self.classifier = nn.Linear(self.num_features, num_classes)
        self.num_classes, self.dropout = num_classes, dropout
        self.patch_size = min(patch_size, encoder.image_size)
        self.ranges = Ranges(
            shift=shift,
            scale_min=scale_min,
            scale_max=scale_max,
            rotation=rotation,
            contrast=contrast,
            power=power,
            factor_min=factor_min,
            factor_max=factor_max,
            offset=offset,
            hue=hue,
        )

    @staticmethod
    def defaults_for(settings: Mapping[str, Any], batch_size: int, train_images: int) -> dict[str, Any]:
        """One class for each training image, and for each of the first test images, which are shown."""
        return {"num_classes": settings["num_classes"] or max(train_images, Method.num_pictures)}

    @staticmethod
    def check_sizes(settings: Mapping[str, Any], batch_size: int, train_images: int | None) -> None:
        """Raise ValueError if there are fewer classes than training images."""
        number = settings["num_classes"]
        if number is not None and train_images is not None and number < train_images:
            raise ValueError(
                f"num_classes: {number} are fewer than the {train_images} training images; leave it out, or set "
                f"data.train_images to {number}"
            )

    def views(self, images: Images, augment: Augment, rng: Generator) -> dict[str, Tensor]:
        """Transformed patches (B, 3, P, P) in [0, 1], their classes (B,), the features' dropout factors (B, C).

        Raises:
            ValueError: the images have no indices, or there are more images than classes.
        """
        target = self._classes(images)
        whole = augment.whole(images, rng)
        sample = images.sampler(rng)
        transforms = Transforms(*sample(self.ranges.draw))
        corners = busiest_corners(whole, self.patch_size)
        uniform = sample.rand(self.num_features)
        return {
            "patch": transformed_patches(whole, corners, self.patch_size, transforms),
            "target": target,
            "kept": (uniform >= self.dropout) / (1 - self.dropout),
        }

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy over the surrogate classes, top-1 accuracy in percent, and feature_std."""
        features = self.encoder.feature_map(batch["patch"]).mean(dim=(2, 3))  # (B, C)
        logits = self.classifier(features * batch["kept"])
        with full_precision(logits):
            loss = F.cross_entropy(at_least_fp32(logits), batch["target"])
        accuracy = (logits.detach().argmax(dim=1) == batch["target"]).float().mean()
        return loss, {"surrogate_top1": 100 * accuracy, "feature_std": global_feature_std(features)}

    @torch.no_grad()
    def visualize(self, batch: dict[str, Tensor]) -> Tensor:
        """The transformed patches (B, 3, P, P)."""
        return batch["patch"]

    def _classes(self, images: Images) -> Tensor:
        if images.indices is None:
            raise ValueError("exemplar: the images have no indices, which are their classes; set Images.indices")
        largest = int(images.indices.max())
        if largest >= self.num_classes:
            raise ValueError(
                f"exemplar: there is no class for image {largest} among {self.num_classes}; set method.num_classes "
                "to the number of training images, or train on fewer"
            )
        return images.indices
