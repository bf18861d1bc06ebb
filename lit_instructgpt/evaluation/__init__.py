"""What a model is measured by: other models, people, files of the paper's automatic evaluations."""
