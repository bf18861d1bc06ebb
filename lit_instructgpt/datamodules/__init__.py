from lit_instructgpt.datamodules.comparisons import ComparisonDataModule
from lit_instructgpt.datamodules.demos import DemoDataModule
from lit_instructgpt.datamodules.prompts import PromptDataModule

__all__ = ["ComparisonDataModule", "DemoDataModule", "PromptDataModule"]
