"""The agreement of k-means clusters of frozen features with the classes."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from ssl_sweep.data.images import DataError
from ssl_sweep.data.splits import Splits
from ssl_sweep.models.losses import unit
from ssl_sweep.training.features import extract, fixed_subset
from ssl_sweep.training.loop import Stage

METRICS = ("nmi_val", "nmi_test", "ari_val", "ari_test")


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    k: Annotated[int | None, Field(ge=2, description="clusters; null: the number of classes")] = None,
    inits: Annotated[int, Field(ge=1, description="starts of k-means; the tightest clusters are used")] = 10,
    images: Annotated[int, Field(ge=2, description="maximum number of training images that are clustered")] = 10_000,
) -> dict[str, float]:
    """Normalised mutual information (0 to 100) and adjusted Rand index (0 by chance, 100 equal) with the classes.

    k-means runs on the L2-normalised features of training images, without their labels. Validation and test images
    belong to the nearest centre, so that small splits are not clustered by themselves. NMI is normalised by the
    arithmetic mean of the entropies (Vinh et al. 2010, "Information Theoretic Measures for Clusterings Comparison");
    ARI is that of Hubert & Arabie 1985, "Comparing Partitions". By chance, NMI grows with k and with fewer images; ARI
    does not.

    Raises:
        DataError: there are fewer training images than clusters.
    """
    from sklearn.cluster import KMeans  # the training core does not need scikit-learn
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    number = splits.num_classes if k is None else k
    bank, _ = extract(encoder, fixed_subset(splits.train, images), splits.image_size, stage)
    if len(bank) < number:
        raise DataError(
            f"evaluate.clusters.k: {number} clusters of {len(bank)} training images; lower k or raise images"
        )
    rng = stage.generator("k-means")
    seed = int(torch.randint(2**31, (1,), generator=rng, device=rng.device))
    kmeans: Any = KMeans(number, n_init=inits, random_state=seed)  # type: ignore[no-untyped-call]
    kmeans.fit(unit(bank).cpu().numpy())
    results = {}
    for split, pack in splits.measured.items():
        features, labels = extract(encoder, pack, splits.image_size, stage)
        clusters, classes = kmeans.predict(unit(features).cpu().numpy()), labels.cpu().numpy()
        results[f"nmi_{split}"] = 100 * float(normalized_mutual_info_score(classes, clusters))
        results[f"ari_{split}"] = 100 * float(adjusted_rand_score(classes, clusters))
    stage.report(results, 1)
    return results
