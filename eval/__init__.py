"""Evaluation.

metrics/ (pure functions), benchmarks/ (a data set with its metrics), run.py (all benchmarks and their baselines),
results.py, report/ (HTML, Markdown, comparisons), inference/ (media of users), render/ (videos of heatmaps), ablate.py,
parity/ (golden cases of the reference).
"""

from configs import package_names

package_names.require_own_packages("pipelines", "model", "eval")
