"""Every fault of a run by its name, whichever module injects it."""

from chaos.global_faults import GlobalFaults
from chaos.injections import Record
from chaos.load import Producer
from chaos.model_faults import ModelFaults
from chaos.process_faults import ProcessFaults
from chaos.rights import Rights
from chaos.schedule import EVERYTHING
from chaos.targets import GIVE_UP_S, Targets


class Faults:
    """Injects faults into a stack, and records what each did."""

    def __init__(self, targets: Targets, producer: Producer, seed: int) -> None:
        self.record = Record()
        rights = Rights(targets.store, seed)
        self._global = GlobalFaults(targets, producer, rights, self.record)
        self._model = ModelFaults(targets, producer, seed, self.record)
        self._process = ProcessFaults(targets, rights, seed, self.record)

    async def inject(self, fault: str, group: str) -> None:
        """Injects one fault into a group; returns when what it hit serves again, or is given up as unmet."""
        try:
            if group == EVERYTHING:
                await self._global.inject(fault)
            elif fault in self._model.faults:
                await self._model.faults[fault]()
            else:
                await self._process.faults[fault](group)
        except TimeoutError as error:  # a finding; the other faults go on
            self.record.unmet.append(f"{fault}: {error} within {GIVE_UP_S:g} s")
