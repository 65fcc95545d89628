"""Examples of requests and responses in the OpenAPI document."""

from typing import Any

EXAMPLE_SPEC = """\
name: alphas
data: {source: digits, image_size: 8}
encoder: {name: resnet18, width: 8}
method: autoencoder
evaluate: {knn: {}}
search:
  space:
    views.overlay_alpha: [0.0, 0.2]
  seeds: 2
"""
TRIAL_ID = "0b7e6f0a-52a4-5d3e-9a30-3c8a6f2f7c11"
OVERRIDE = "pretrain.epochs=2"
SPEC = {"spec": EXAMPLE_SPEC, "overrides": [OVERRIDE]}
SUBMIT = {**SPEC, "priority": 0}
STOP: dict[str, Any] = {"trials": [TRIAL_ID[:8]]}
RESUME: dict[str, Any] = {"failed": True, "trials": []}
EXTEND = {"trials": "+20", "overrides": ["search.space.views.overlay_alpha={low: 0.0, high: 0.4}"]}
PRIORITIZE = {"priority": -1}
COUNTS = {
    "name": "alphas",
    "phase": "searching",
    "total": 4,
    "complete": 1,
    "running": 2,
    "interrupted": 0,
    "failed": 0,
    "stopped": 0,
    "paused": 0,
    "pruned": 0,
    "waiting": 1,
    "objective": "maximize knn/top1_val",
    "best": 91.5,
}
SWEEP = {
    "name": "alphas",
    "owner": "ann",
    "description": None,
    "state": "RUNNING",
    "reason": "",
    "asked": None,
    "priority": 0,
    "trials_at_once": 2,
    "attempts": 1,
    "counts": COUNTS,
    "created": 1795352400.0,
    "launched": 1795352460.0,
    "ended": None,
}
TRIAL = {
    "trial_id": TRIAL_ID,
    "choice": 0,
    "knobs": {"views.overlay_alpha": 0.0},
    "seed": 0,
    "confirms": False,
    "state": "RUNNING",
    "stage": "pretrain",
    "epoch": 3,
    "attempts": 1,
    "crashed": 0,
    "lost": 0,
    "reason": None,
    "message": None,
    "damage": None,
    "collapsed": False,
    "last_sign_seconds": 2.5,
    "waits": None,
    "results": None,
}
LOG = "epoch 3: loss 0.41\n"
LOG_PART = {"trial": TRIAL_ID, "text": LOG, "offset": 19, "ended": False}
PLANNED = {
    "name": "alphas",
    "choices": 2,
    "seeds": 2,
    "confirming": 0,
    "trials": 4,
    "pretrains": 4,
    "pretrain_epochs": 400,
    "pretrain_steps": 0,
    "evaluation_epochs": {"knn": 0},
    "concurrent": 4,
    "views": {"autoencoder": {"crop_scale_min": 0.08}},
    "warnings": [],
    "problems": [],
    "at_most": False,
}
CLUSTER = {
    "trouble": "",
    "cpus": 32.0,
    "gpus": 4.0,
    "cpus_given": 8.0,
    "gpus_given": 2.0,
    "waiting": 1,
    "running": 2,
}
PROBLEM = {
    "place": "views.overlay_alpha",
    "line": 7,
    "value": 0.7,
    "message": "Input should be less than or equal to 0.5",
    "remedy": "",
}
EVENT = {
    "id": "7",
    "event": "state",
    "data": '{"number": 7, "time": 1795352460.0, "kind": "state", "state": "RUNNING", "reason": ""}',
}
TABLES = {
    "text/markdown": "| overlay_alpha | knn/top1_test |\n|---:|---:|\n| 0 | 91.5 ± 0.4 |\n",
    "application/x-tex": "\\begin{tabular}{rr}\n0 & 91.5 $\\pm$ 0.4 \\\\\n\\end{tabular}\n",
    "text/csv": "overlay_alpha,knn/top1_test\n0,91.5\n",
    "application/json": {"rows": [{"overlay_alpha": 0, "knn/top1_test": 91.5}], "notes": []},
    "text/html": "<table><tr><td>0</td><td>91.5 ± 0.4</td></tr></table>\n",
}
REPORT = "<!doctype html><title>alphas</title>"
REFUSALS = {
    400: ("the request cannot be parsed", "There was an error parsing the body"),
    401: ("no token, or an unknown one", "a token is needed: `Authorization: Bearer TOKEN`"),
    403: ("not allowed, or sent by another site's page", "alphas is bob's: only they and admins may change it"),
    404: ("not found", "no sweep named 'alphas' was submitted here"),
    409: ("in conflict with the current state", "alphas is RUNNING; stop it first"),
    413: ("too large", "a request has at most 400,000 bytes"),
    422: ("not as this document says, or an invalid spec", "the spec has 1 problems"),
    429: ("too many requests; `Retry-After` gives the seconds to wait", "ann asks too often"),
    503: ("a database, Ray or MLflow is unavailable", "the service's database does not answer"),
}
FULL_SPEC = {"name": "alphas", "data": {"source": "digits", "image_size": 8}, "search": {"seeds": [0, 1]}}
