from lit_instructgpt.callbacks.export import ExportHF
from lit_instructgpt.callbacks.lost_process import LostProcess
from lit_instructgpt.callbacks.metric_log import MetricLog
from lit_instructgpt.callbacks.profile import Profile
from lit_instructgpt.callbacks.progress import PhaseProgressBar
from lit_instructgpt.callbacks.run_directory import RunDirectory
from lit_instructgpt.callbacks.samples import SampleTable, WriteSamples
from lit_instructgpt.callbacks.save_checkpoints import SaveCheckpoints

__all__ = [
    "ExportHF",
    "LostProcess",
    "MetricLog",
    "PhaseProgressBar",
    "Profile",
    "RunDirectory",
    "SampleTable",
    "SaveCheckpoints",
    "WriteSamples",
]
