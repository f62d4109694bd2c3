"""Benchmarks: a data set in its published layout and a metric. Reading order: tables, pictures, sounds; prompted_items, prompted_measures,
prompted_ade20k; kept_features, gallery, retrieval, disentanglement; localization_items, vgg_ss, flickr_soundnet, is3, avsbench, extended
(what a set is), localization_maps, localization_measures, localization; assemble.
Each benchmark has `name`, `prompted` (its prompts can be shuffled) and `evaluate(model) -> Measured`; it is made only where its data is."""
