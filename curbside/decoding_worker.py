"""The process that decodes: reads requests from standard input, answers on standard output.

Run by ``curbside.decoding``.  It may not take more memory than it is told, may not write a
file, and leaves no core; what the libraries print goes nowhere.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from curbside.decoding import receive, send
from curbside.dicom import read_header
from curbside.dicom_pixels import read_frame, read_values
from curbside.errors import ImageError
from curbside.pixels import MAX_BYTES, decode_image

__all__ = ["main", "serve"]


def main() -> None:
    """Set the limits, then serve standard input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _limit(int(sys.argv[1]))
    serve(sys.stdin.buffer, answers)


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until they end."""
    while True:
        try:
            request, payload = receive(requests)
        except EOFError:
            return
        try:
            answer, raw = _answer(request, payload)
        except ImageError as e:
            answer, raw = {"problem": [e.reason, e.message]}, b""
        except MemoryError:
            answer, raw = {"problem": ["out_of_memory", "decoding wanted too much memory"]}, b""
        except Exception as e:  # the message of a library may hold what the file says
            said = f"it cannot be decoded ({type(e).__name__})"
            answer, raw = {"problem": ["unreadable", said]}, b""
        send(answers, answer, raw)


def _answer(request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes | memoryview]:
    if request["do"] == "header":
        if "path" not in request:
            with BytesIO(payload) as f:
                return asdict(read_header(f, len(payload), request["tags"])), b""
        path = Path(os.fsdecode(bytes.fromhex(request["path"])))
        try:
            with path.open("rb") as f:
                size = os.fstat(f.fileno()).st_size
                if size > MAX_BYTES:
                    raise ImageError(
                        "too_large", f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read"
                    )
                return asdict(read_header(f, size, request["tags"])), b""
        except OSError as e:
            raise ImageError("unreadable", f"the file cannot be read ({e.strerror})") from None
    if request["do"] == "picture":
        array: Any = decode_image(payload)
    elif request["do"] == "values":
        array = read_values(payload, request["frame"])
    else:
        at = request["window"]
        array = read_frame(
            payload, request["frame"], at and (at[0], at[1]), hounsfield=request["named"]
        )
    array = np.ascontiguousarray(array)
    return {"shape": array.shape, "dtype": array.dtype.str}, array.data.cast("B")


def _limit(memory: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    mapped = Path("/proc/self/statm")
    if mapped.exists():  # elsewhere than on Linux only the checks beforehand hold memory down
        base = int(mapped.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (base + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
