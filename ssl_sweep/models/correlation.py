"""Statistics over a batch of embeddings (N, D) for redundancy-reducing losses."""

from torch import Tensor


def standardized(z: Tensor, eps: float) -> Tensor:
    """Scale each dimension of `z` (N, D) to mean 0 and variance 1 over the batch; `eps` is added to the variance."""
    centered = z - z.mean(dim=0)
    return centered * (centered.square().mean(dim=0) + eps).rsqrt()


def covariance(z: Tensor) -> Tensor:
    """The unbiased covariance (D, D) of `z` (N, D)."""
    centered = z - z.mean(dim=0)
    return centered.T @ centered / (len(z) - 1)


def off_diagonal_energy(matrix: Tensor) -> Tensor:
    """The sum of squares off the diagonal of a (D, D) matrix."""
    side = len(matrix)
    # in rows of D + 1 the diagonal is the first column: dropping it is exact, subtracting it is not
    return matrix.flatten()[:-1].view(side - 1, side + 1)[:, 1:].square().sum()
