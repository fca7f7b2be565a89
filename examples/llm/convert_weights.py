"""`python -m examples.llm.convert_weights --model DIR --quantization q4f16_1 -o dist/`: weights and tokenizer for a built model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .artifact import write_weights
from .build import KEPT, quantized
from .errors import ModelError
from .quantization import packed_weights
from .source import open_model
from .weights import parameter_shapes


def convert(model: str, quantization: str, folder: Path, progress: bool = False) -> None:
    """Reads, packs and writes one tensor after another, so that a model need not fit into memory."""
    source = open_model(model)
    config, formats = quantized(model, quantization)
    folder.mkdir(parents=True, exist_ok=True)
    source.tokenizer().save(folder)
    kept, count, done = quantization in KEPT, len(parameter_shapes(config)), 0
    weights = source.packed(config.dtype) if kept else packed_weights(source.tensors(config.dtype), formats)
    for name in write_weights(folder, weights):
        done += not name.endswith((".q_scale", ".q_zero"))
        if progress:
            print(f"\r{done} of {count} weights", end="" if done < count else "\n", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 after one line on standard error that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m examples.llm.convert_weights", description="Weights for a built model.")
    parser.add_argument("--model", required=True, help="a Hugging Face folder, or a .gguf file")
    parser.add_argument("--quantization", default="q4f16_1", help="as the library was built (default q4f16_1)")
    parser.add_argument("-o", "--output", required=True, type=Path, help="the folder of the library")
    options = parser.parse_args(arguments)
    try:
        convert(options.model, options.quantization, options.output, progress=sys.stderr.isatty())
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
