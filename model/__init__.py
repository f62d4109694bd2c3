"""The model: encoders, projections, similarity, losses and training.

Reading order: encoders/encoder.py, projection.py, features.py, similarity/dense.py, losses/objective.py, denseav.py
(the parts put together), build.py (from settings), heatmap.py, training/step.py, hub.py (a model as a folder).
"""

from configs import package_names

package_names.require_own_packages("model")
