"""Raw media into batches. Reading order: manifest.py (a clip), atomic_write.py, sources/ (data set layouts -> clips), build/ (clips -> shards, offline),
verify.py (are the shards whole), stream/ (shards -> batches, online). All but stream/ runs without torch."""

from configs import package_names

package_names.require_own_packages("pipelines")
