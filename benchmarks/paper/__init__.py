"""The paper's findings, rerun on the miniature: what is trained (`stages`), in which order (`jobs`), what it shows (`claims`)."""
