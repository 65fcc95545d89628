"""The errors of a cluster that cannot be used."""

from ssl_sweep.errors import UserError


class ClusterError(UserError, ValueError):
    """The Ray cluster cannot be used."""


class InfeasibleError(ClusterError):
    """No node of the cluster, as it is now, has the resources for a trial."""


class BrokenClusterError(ClusterError):
    """Ray has died, or does not answer any more, while a sweep ran."""
