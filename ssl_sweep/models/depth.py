"""How deep each parameter of an encoder lies, counted in layers from the input."""

from collections.abc import Iterator

from torch import nn

from ssl_sweep.models.encoder import Encoder


def layer_numbers(encoder: Encoder) -> tuple[dict[str, int], int]:
    """Each parameter's layer by its name, and the number of the layer after the last, a classifier's.

    A layer is an element of a sequence of the network: a transformer's or a ResNet's block. What comes before the
    first sequence, tokens and positions are layer 0, what comes after the last belongs to the classifier's.
    """
    found = list(_layers(encoder.net, "net."))
    layers = [prefix for prefix, is_layer in found if is_layer]
    ends = (
        {prefix for prefix, is_layer in found[found.index((layers[-1], True)) :] if not is_layer} if layers else set()
    )
    last = len(layers) + 1
    numbers: dict[str, int] = {}
    for name, _ in encoder.named_parameters():
        number = next((index + 1 for index, prefix in enumerate(layers) if name.startswith(prefix)), 0)
        numbers[name] = last if name.startswith(tuple(ends)) else number
    return numbers, last


def _layers(module: nn.Module, prefix: str) -> Iterator[tuple[str, bool]]:
    """The modules below `module` in order, by the prefix of their parameters' names, and whether each is a layer."""
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from (
                (f"{path}{part}.", True)
                for part, each in child.named_children()
                if any(True for _ in each.parameters())
            )
        elif any(isinstance(each, nn.Sequential | nn.ModuleList) and len(each) > 1 for each in child.children()):
            yield from _layers(child, path)
        elif any(True for _ in child.parameters()):
            yield path, False
