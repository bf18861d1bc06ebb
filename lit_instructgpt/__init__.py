"""All of InstructGPT (Ouyang et al., 2022) in one tool, on PyTorch Lightning."""

__version__ = "0.1.0"
