"""Jobs over whole data sets, and where they run.

Without PyTorch on purpose: extraction needs it, and what only reads a store must not load it.
"""

from stratascope.pipeline._compare_channels import ChannelDifferences, SiteDifference
from stratascope.pipeline._compare_result import Comparison
from stratascope.pipeline._executor import Executor, Inline, Job, Processes
from stratascope.pipeline._profile_findings import Finding
from stratascope.pipeline._profile_result import Profile, SiteProfile

__all__ = [
    "ChannelDifferences",
    "Comparison",
    "Executor",
    "Finding",
    "Inline",
    "Job",
    "Processes",
    "Profile",
    "SiteDifference",
    "SiteProfile",
]
