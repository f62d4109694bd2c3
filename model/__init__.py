"""The model. Reading order: encoders/tiny.py (what an encoder is), grounding/projection.py, grounding/similarity.py, grounding/losses.py,
grounding/denseav.py (put together), build.py (from settings), training/ (one step, checkpoints), hub.py (a model as a folder)."""

from configs import package_names

package_names.require_own_packages("model")
