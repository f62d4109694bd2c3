"""A small synthetic world of video, sound and speech in the layouts of the real data sets: scene.py, sound.py, speech.py, media.py, layouts.py."""
