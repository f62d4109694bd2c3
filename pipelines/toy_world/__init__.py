"""A small synthetic data set of video, sound and speech in the layouts of the real data sets.

Reading order: scene.py (images and masks), sound.py, speech.py, media.py (encoding), layouts.py and localization.py
(items and tables), world.py (the command).
"""
