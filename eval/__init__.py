"""Evaluation. Reading order: metrics (pure functions), benchmarks (a data set and a metric), run (all of them, with their baselines), results, report and
figures (what a person reads), render (a video with its heatmap), parity (golden cases of the reference)."""

from configs import package_names

package_names.require_own_packages("pipelines", "model", "eval")
