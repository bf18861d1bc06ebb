from lit_instructgpt.callbacks.export import ExportHF
from lit_instructgpt.callbacks.profile import Profile
from lit_instructgpt.callbacks.progress import PhaseProgressBar
from lit_instructgpt.callbacks.run_directory import RunDirectory
from lit_instructgpt.callbacks.samples import SampleTable, WriteSamples

__all__ = ["ExportHF", "PhaseProgressBar", "Profile", "RunDirectory", "SampleTable", "WriteSamples"]
