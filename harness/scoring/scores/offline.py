"""The base of the scores: an `evaluate.Metric` that leaves no file behind."""

from __future__ import annotations

from typing import Any

import evaluate


class OfflineMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """Inputs stay in memory, so that neither the user's cache nor another process is touched.

    ``keep_in_memory=False`` and the other arguments of `evaluate.Metric` bring back its own
    behaviour, which a distributed evaluation needs.
    """

    def __init__(self, *args: Any, keep_in_memory: bool | None = None, **kwargs: Any) -> None:
        if keep_in_memory is None:
            keep_in_memory = kwargs.get("num_process", 1) == 1
        self._leaves_no_file = keep_in_memory
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate makes a folder in the user's cache even where it keeps everything in memory.
        return "" if self._leaves_no_file else str(super()._build_data_dir())
