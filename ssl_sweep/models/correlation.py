"""Statistics over a batch of embeddings (N, D) that redundancy-reducing losses are made of."""

from torch import Tensor


def standardized(z: Tensor, eps: float) -> Tensor:
    """Each dimension of `z` (N, D) to mean 0 and variance 1 over the batch; `eps` is added to the variance."""
    centered = z - z.mean(dim=0)
    return centered * (centered.square().mean(dim=0) + eps).rsqrt()


def covariance(z: Tensor) -> Tensor:
    """The unbiased covariance (D, D) of `z` (N, D)."""
    centered = z - z.mean(dim=0)
    return centered.T @ centered / (len(z) - 1)


def off_diagonal_energy(matrix: Tensor) -> Tensor:
    """The sum of squares off the diagonal of a (D, D) matrix."""
    side = len(matrix)
    # cut into rows of one more than D, the diagonal is the first column: it is left out, not subtracted again
    return matrix.flatten()[:-1].view(side - 1, side + 1)[:, 1:].square().sum()
