"""Declarations: an attribute of the name, or the default."""

from torch import nn

from ssl_sweep.training.declarations import MethodDeclarations, TrainingDeclarations, declared


class Declaring(nn.Module):
    pretrains = False
    constant_lr = ("projector",)

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(2, 2)
        self.progress = 0.0

    def after_step(self, progress: float) -> None:
        self.progress = progress


def test_what_is_not_declared_has_its_default() -> None:
    assert declared(MethodDeclarations, nn.Linear(2, 2)) == MethodDeclarations()
    assert declared(TrainingDeclarations, nn.Linear(2, 2)) == TrainingDeclarations()


def test_an_attribute_of_the_name_is_a_declaration() -> None:
    module = Declaring()
    declarations = declared(MethodDeclarations, module)
    assert (declarations.pretrains, declarations.constant_lr) == (False, ("projector",))
    assert declarations.projector is module.projector
    declarations.after_step(0.5)
    assert module.progress == 0.5


def test_a_class_declares_before_it_is_built() -> None:
    assert declared(MethodDeclarations, Declaring).pretrains is False
