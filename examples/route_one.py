"""Route one image: whom the policy would ask, then what they say.

    python examples/route_one.py IMAGE 'normal|pneumonia'

Needs what `make demo` or `curbside build` has made (CURBSIDE_HOME says where).
"""

from __future__ import annotations

import sys

from curbside import Question, Router, Study
from curbside.router.render import render


def main(image: str, options: str = "") -> None:
    """Print the plan, then the record."""
    router = Router.from_config()
    question = Question(options=tuple(options.split("|")) if options else ())
    study = Study.from_image(image, question=question)
    planned = router.decide(study)
    print("would ask:", ", ".join(planned.outcome.route) or planned.outcome.status)
    print(render(router.read(study)))


if __name__ == "__main__":
    main(*sys.argv[1:])
