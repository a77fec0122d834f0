"""The labelled cases that the embedded fleet is trained on, and what its agents see of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from curbside.agents.examples import Examples
from curbside.agents.tasks import options_by_task
from curbside.agents.trunk import Inputs, SecondTrunk, Trunk
from curbside.cases import Cases
from curbside.errors import UserError
from curbside.indexes.features import Features

__all__ = ["Labelled"]


class Labelled:
    """Usable cases of role train and tune that have a task and a label.

    Args:
        features: one row a case, with grids.
        trunks: by name, as of :func:`~curbside.agents.trunk.trunks_of`.

    Attributes:
        train, tune: the cases by role; their rows point into what :meth:`inputs_of` gives.
        inputs: what agents on the first trunk see of them.

    Raises:
        UserError: no case of role train is among them.
    """

    def __init__(self, cases: Cases, features: Features, trunks: Mapping[str, Trunk]) -> None:
        self.trunks = trunks
        usable = features.usable & (cases.tasks != "") & (cases.labels != "")
        rows = np.flatnonzero(usable & np.isin(cases.roles, ("train", "tune")))
        self.inputs: Inputs = trunks[Trunk.name].from_features(features, rows)
        digests = np.array(features.digests, np.str_)
        self._studies = [cases[r].study() for r in rows.tolist()]

        def examples(role: str) -> Examples:
            at = np.flatnonzero(cases.roles[rows] == role)
            own = rows[at]
            offers = (
                (str(cases.tasks[r]), cases[r].options or (str(cases.labels[r]),))
                for r in own.tolist()
            )
            return Examples(
                at,
                digests[own],
                cases.modalities[own],
                cases.tasks[own],
                cases.labels[own],
                options_by_task(offers),
            )

        self.train, self.tune = examples("train"), examples("tune")
        if not len(self.train):
            raise UserError(
                "there is no labelled case of role 'train' to build agents from",
                hint="give some cases with an image that can be read a label, a task and options",
            )

    def inputs_of(self, trunk: str) -> Inputs:
        """What agents on a trunk see; the second trunk's is computed when asked for."""
        return self.inputs if trunk == Trunk.name else self._second

    @cached_property
    def _second(self) -> Inputs:
        trunk = self.trunks[SecondTrunk.name]
        features = trunk.source.of(self._studies, label="encoding for the second trunk")
        return trunk.from_features(features, np.arange(len(features)))
