"""SmolLM2-135M on human records: what is selected, trained and measured."""
