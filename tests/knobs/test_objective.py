"""An objective is read in one place, and every stored form of it stays text."""

import pytest

from ssl_sweep.knobs.objective import Objective, parse_objectives


def test_an_objective_is_written_as_it_is_read() -> None:
    loss = Objective.parse(" minimize  pretrain/loss ")
    assert loss == Objective("minimize", "pretrain/loss")
    assert str(loss) == "minimize pretrain/loss"
    assert (loss.maximizes, loss.sign) == (False, -1)
    accuracy = Objective.parse("maximize knn/top1_val")
    assert (accuracy.maximizes, accuracy.sign) == (True, 1)


@pytest.mark.parametrize("text", ["", "knn/top1_val", "maximise knn/top1_val", "maximize", "maximize a b"])
def test_another_text_is_no_objective(text: str) -> None:
    with pytest.raises(ValueError, match="must be `maximize METRIC` or `minimize METRIC`"):
        Objective.parse(text)


def test_two_objectives_are_a_list_in_a_spec_and_one_text_in_a_status() -> None:
    written = ["maximize knn/top1_val", "minimize cost/gmacs"]
    assert parse_objectives(written) == parse_objectives(", ".join(written))
    assert parse_objectives(written) == tuple(map(Objective.parse, written))
    assert parse_objectives(written[0]) == (Objective("maximize", "knn/top1_val"),)
    assert parse_objectives("") == parse_objectives([]) == parse_objectives(None) == ()
