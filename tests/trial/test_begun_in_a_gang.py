"""Two workers of a trial on real process groups: both begin from the weights that the spec names, not from rank 0's."""

import traceback
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ssl_sweep.knobs.pins import used_by
from ssl_sweep.models.encoders import build_encoder
from ssl_sweep.models.weights import digest
from ssl_sweep.spec.file import check_spec
from ssl_sweep.spec.sweep import resolve
from ssl_sweep.training.pretrain import pretrain
from ssl_sweep.trial import run as trial

SETTINGS = {"name": "resnet18", "width": 4}
KNOBS = {"weights": "begin.safetensors", "from": "earlier"}


def config_of(knob: str, pinned: str) -> dict[str, Any]:
    data = {"source": "digits", "image_size": 8, "train_images": 128}
    base = {"name": "gang", "data": data, "method": "autoencoder", "evaluate": {"knn": {"k": 5}}, "precision": "fp32"}
    base |= {"encoder": {**SETTINGS, knob: KNOBS[knob]}, "health": {"every": 0}, "resources": {"workers": 2}}
    spec = check_spec(base | {"pretrain": {"epochs": 1, "batch_size": 64, "lr": 1e-3}})
    config = resolve(spec, {}, 0)
    return {**config, "pins": used_by(config, {f"encoder.{knob} {KNOBS[knob]}": pinned})}


def work(folder: Path, config: dict[str, Any], rank: int, cache: Path) -> dict[str, torch.Tensor]:
    """Take a rank's part in a trial; the state of the encoder with which it began to pretrain."""
    began: dict[str, torch.Tensor] = {}

    def watched(method: Any, *rest: Any) -> dict[str, float]:
        began.update({key: value.clone() for key, value in method.encoder.state_dict().items()})
        return pretrain(method, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "pretrain", watched)
        if rank == 0:
            trial.run(config, lambda metrics, step: None, folder, cache=cache)
        else:
            trial.run_worker(config, folder, cache=cache)
    return began


def on_a_rank(rank: int, root: Path, pinned: str, cache: Path) -> None:
    torch.set_num_threads(1)
    found: Any = {}
    try:
        for knob in KNOBS:
            dist.init_process_group("gloo", init_method=f"file://{root}/{knob}", rank=rank, world_size=2)
            found[knob] = work(root / "gang" / "trials" / knob, config_of(knob, pinned), rank, cache)
    except Exception:
        found = traceback.format_exc()
    torch.save(found, root / f"rank{rank}.pt")


def test_every_rank_begins_from_the_named_weights(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_SWEEP_DATA", str(tmp_path))
    torch.manual_seed(5)
    encoder = build_encoder(SETTINGS, 8)
    for name, buffer in encoder.net.named_buffers():  # those of batch normalisation are not random
        if name.endswith("running_mean"):
            buffer.normal_()
    file = tmp_path / KNOBS["weights"]
    safetensors.torch.save_file(encoder.net.state_dict(), file)
    copy = trial.origin_file(tmp_path / "gang", digest(file))
    copy.parent.mkdir(parents=True)
    copy.write_bytes(file.read_bytes())

    context = mp.get_context("spawn")
    ranks = [context.Process(target=on_a_rank, args=(rank, tmp_path, digest(file), cache)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert not isinstance(found, str), found
        for began in found.values():
            assert began.keys() == encoder.state_dict().keys()
            assert all(torch.equal(began[key], value) for key, value in encoder.state_dict().items())

    work(tmp_path / "gang" / "trials" / "alone", config_of("weights", digest(file)), 0, cache)
    ended = {
        knob: torch.load(trial.encoder_path(tmp_path / "gang" / "trials" / knob), weights_only=True)["encoder"]
        for knob in (*KNOBS, "alone")
    }
    for knob in KNOBS:
        for key, value in ended["alone"].items():
            torch.testing.assert_close(ended[knob][key], value, rtol=1e-4, atol=1e-5, check_stride=False)
