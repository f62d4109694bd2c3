"""Benchmarks: a data set in its published layout and a metric. Reading order: prompted_items, prompted_ade20k, gallery, retrieval, disentanglement,
assemble. Each benchmark has `name`, `prompted` (its prompts can be shuffled) and `evaluate(model) -> Measured`; it is made only where its data is."""
