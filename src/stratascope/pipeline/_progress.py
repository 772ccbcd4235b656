"""What a part of a job tells of how far it is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """What a part of a job has done since it last said so.

    Attributes:
        samples: Number of samples that went through the model.
        nbytes: Bytes that came on the disk.
    """

    samples: int
    nbytes: int
