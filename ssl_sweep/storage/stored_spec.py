"""The spec beside a sweep's trials, `spec.yaml`: for people, and for commands where the ledger is elsewhere."""

from pathlib import Path
from typing import Any

import yaml

from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.damage import MEND, DamagedFileError, read_text

FILE = "spec.yaml"


def stored_spec(sweep: Path) -> dict[str, Any] | None:
    """A sweep's spec as JSON data; None where its folder has none. Raises DamagedFileError."""
    path = sweep / FILE
    try:
        text = read_text(path)
        spec = yaml.safe_load(text)
    except FileNotFoundError:
        return None
    except yaml.YAMLError as error:
        raise DamagedFileError(f"{path} is not YAML ({' '.join(str(error).split())}); {MEND}") from error
    if not isinstance(spec, dict) or not text.endswith("\n"):  # half of it can be YAML too
        raise DamagedFileError(f"{path} is {'empty' if not text.strip() else 'cut off'}; {MEND}")
    return spec


def write_spec(sweep: Path, spec: dict[str, Any]) -> None:
    """Write a sweep's spec beside its trials."""
    write_text(sweep / FILE, yaml.safe_dump(spec, sort_keys=False))
