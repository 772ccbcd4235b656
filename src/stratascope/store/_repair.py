"""Giving damaged units back, so that the extraction does them again."""

from collections.abc import Iterable
from dataclasses import replace

from stratascope.store._files import UnreadableError, read_end, read_spec
from stratascope.store._layout import Paths, encode_json
from stratascope.store._verify import Damage


def uncommit(paths: Paths, damages: Iterable[Damage]) -> None:
    """Take back that units are committed which are damaged, and that their step is complete.

    Raises:
        StoreError: A run is writing the step, or what it holds is not known.
    """
    damages = list(damages)
    if not damages:
        return
    folder = paths.folder
    held = folder.hold(paths.step, None)
    try:
        spec = read_spec(paths)
        if spec.samples is None and (samples := _read_length(paths)) is not None:
            # Else the units behind a gap would count no more: they might not be the whole rest.
            known = replace(spec, samples=samples)
            folder.write(paths.spec, encode_json(known.to_json()))
        # First: a step that lacks a unit must not be called complete, whatever happens now.
        folder.remove([paths.complete])
        lost = (damage.samples for damage in damages if damage.samples)
        folder.remove(
            paths.manifest(unit)
            for samples in lost
            for unit in range(samples.start // spec.unit, (samples.stop - 1) // spec.unit + 1)
        )
    finally:
        for release in held:
            release()


def _read_length(paths: Paths) -> int | None:
    try:
        return read_end(paths)
    except (UnreadableError, FileNotFoundError):
        return None
