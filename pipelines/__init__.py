"""From raw media to batches. Everything but stream/ runs without torch.

Reading order: manifest.py (clips), atomic_write.py, sources/ (data set layouts to clips), build/ (clips to shards,
offline), verify.py (integrity of shards), stream/ (shards to batches, online).
"""

from configs import package_names

package_names.require_own_packages("pipelines")
