"""Which data a run is trained on: a resumed run must see the same, or its position in them means nothing."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lightning.pytorch import LightningDataModule

from lit_instructgpt.datamodules.tokenizing import Source
from lit_instructgpt.hashes import hash_of
from lit_instructgpt.run_seed import begun_with


class NamedData(LightningDataModule):
    """Keeps the hash of every training file in checkpoints, and refuses to go on with others; keeps the seed too."""

    seed: int
    """Of the order of the data."""

    def sources(self) -> list[Source]:
        """The data that shape the model."""
        raise NotImplementedError

    @cached_property
    def hashes(self) -> dict[str, str]:
        """File -> SHA-256, in the order of reading; computed once."""
        paths = [path for source in self.sources() for path in ([source] if isinstance(source, str) else source)]
        return {path: hash_of(path) for path in paths}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"data": self.hashes, "seeds": {"data.seed": self.seed}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compares, if the run goes on, and takes its seed: validation of a checkpoint may have any data.

        Raises:
            ValueError: the files hold something else than those the checkpoint was trained on; they may have moved.
        """
        self.seed = begun_with(self.trainer, state_dict.get("seeds", {}), {"data.seed": self.seed})["data.seed"]
        then: dict[str, str] = state_dict["data"]
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        if list(then.values()) == list(self.hashes.values()):
            return
        gone = [path for path, digest in then.items() if digest not in self.hashes.values()]
        new = [path for path, digest in self.hashes.items() if digest not in then.values()]
        changes = [f"no longer there: {', '.join(gone)}"] * bool(gone) + [f"not there before: {', '.join(new)}"] * bool(
            new
        )
        raise ValueError(
            f"the checkpoint was trained on other data ({'; '.join(changes or ['the files are in another order'])}): its "
            "place in them would mean nothing. Give the same files, which may have moved; for others start a new run from its "
            "export (docs/checkpoints.md)"
        )
