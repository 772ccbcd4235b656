from . import diagnose as diagnose
from . import errors as errors
from . import render as render
from .capture import Activations as Activations
from .capture import SiteInfo as SiteInfo
from .capture import Tap as Tap
from .capture import Trace as Trace
from .capture import debug as debug
from .capture import select as select
from .capture import split as split
from .capture import submodel as submodel
from .capture import survey as survey
from .capture import tap as tap
from .capture import trace as trace
from .capture import tune_allocator as tune_allocator
from .pipeline._compare import compare as compare
from .pipeline._extract import extract as extract
from .pipeline._profile import profile as profile
from .pipeline._record import TrainingRecord as TrainingRecord
from .pipeline._record import record as record
from .sites import Site as Site
from .store import Store as Store
from .store import open_store as open_store

__version__: str
